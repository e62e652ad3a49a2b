// The rate of 8-bit products, mma.m16n8k32, in registers alone: what no kernel built on mma.sync
// exceeds.
#include <algorithm>

#include "common/error.h"
#include "kernels/device.h"
#include "ptx/mma.cuh"

namespace paro::kernels {
namespace {

constexpr int threads = 256;
constexpr int blocks_per_sm = 4;  // 32 warps: the tensor cores of an SM never wait for one
constexpr int chains = 8;         // products of a warp that do not wait for each other
constexpr int repeats = 1 << 14;  // some milliseconds
constexpr int runs = 5;
constexpr double operations = 2.0 * 16 * 8 * 32;

// `sink` is null: the compiler would remove sums that nothing can read.
__global__ void __launch_bounds__(threads) multiply_in_registers(int32_t* sink) {
  // Bits that change from lane to lane: products of zeros would draw less power, and clock higher.
  uint32_t bits = (blockIdx.x * threads + threadIdx.x) * 2654435761u;
  uint32_t a[4], b[2];
  for (uint32_t& x : a) x = bits = bits * 1664525u + 1013904223u;
  for (uint32_t& x : b) x = bits = bits * 1664525u + 1013904223u;
  int32_t c[chains][4] = {};
#pragma unroll 1
  for (int i = 0; i < repeats; i++) {
#pragma unroll
    for (int chain = 0; chain < chains; chain++) ptx::mma_s8_s8(c[chain], a, b);
  }
  if (sink == nullptr) return;
  for (const auto& tile : c) {
    for (const int32_t x : tile) atomicAdd(sink, x);
  }
}

// Start and end of a run on a stream.
struct Clock {
  cudaEvent_t start = nullptr, end = nullptr;

  Clock() = default;
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  ~Clock() {
    if (start != nullptr) cudaEventDestroy(start);
    if (end != nullptr) cudaEventDestroy(end);
  }
};

// Milliseconds of the fastest of several runs.
cudaError_t time_runs(int blocks, cudaStream_t stream, float* milliseconds) {
  Clock clock;
  cudaError_t error = cudaEventCreate(&clock.start);
  if (error == cudaSuccess) error = cudaEventCreate(&clock.end);
  *milliseconds = 1e30f;
  for (int run = 0; run <= runs && error == cudaSuccess; run++) {
    cudaEventRecord(clock.start, stream);
    int32_t* sink = nullptr;
    void* arguments[] = {&sink};
    error = cudaLaunchKernel(reinterpret_cast<const void*>(multiply_in_registers),
                             dim3(static_cast<unsigned>(blocks)), dim3(threads), arguments, 0,
                             stream);
    cudaEventRecord(clock.end, stream);
    if (error == cudaSuccess) error = cudaEventSynchronize(clock.end);
    float elapsed = 0.0f;
    if (error == cudaSuccess) error = cudaEventElapsedTime(&elapsed, clock.start, clock.end);
    if (run > 0) *milliseconds = std::min(*milliseconds, elapsed);  // the first one warms up
  }
  return error;
}

}  // namespace

paro_status measure_peak(void* stream, double* operations_per_second) noexcept {
  int32_t sm = 0;
  if (const paro_status status = current_sm(&sm); status != PARO_OK) return status;
  int device = 0, processors = 0;
  float milliseconds = 0.0f;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  const int blocks = processors * blocks_per_sm;
  if (error == cudaSuccess) {
    error = time_runs(blocks, static_cast<cudaStream_t>(stream), &milliseconds);
  }
  if (error != cudaSuccess) {
    (void)cudaGetLastError();  // else the thread's next caller of CUDA would find it
    return fail(PARO_RUNTIME_ERROR, "launch: %s", cudaGetErrorString(error));
  }
  const double products = static_cast<double>(blocks) * (threads / 32) * chains * repeats;
  *operations_per_second = products * operations / (static_cast<double>(milliseconds) * 1e-3);
  return PARO_OK;
}

}  // namespace paro::kernels
