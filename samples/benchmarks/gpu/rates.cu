// Measured rates of a GPU's pipes: rates > rates.csv
//
//   nvcc -O3 -std=c++20 -Iplugins -gencode arch=compute_90a,code=sm_90a samples/benchmarks/gpu/rates.cu
//
// Columns: name, unit, rate (units a second), per_clock_sm (units a clock and multiprocessor), mhz
// (the multiprocessors' clock meanwhile) and spread (half the interquartile range over the median
// of the runs). Exit status 1 where CUDA refuses anything.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "rate_bodies.cuh"

namespace rates {
namespace {

constexpr int runs = 9;
constexpr double shortest_ms = 4.0;
constexpr size_t copied_bytes = size_t{2} << 30;  // many times any L2

bool succeeded(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return true;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  return false;
}

// `sink` is null: what nobody could read would not be computed.
template <class Body>
__global__ void __launch_bounds__(Body::threads, Body::blocks_per_sm)
    repeat(int iterations, uint32_t* sink, long long* cycles) {
  DYN_SMEM(shared);
  Body body(shared, (blockIdx.x * Body::threads + threadIdx.x) * 2654435761u);
  const long long start = clock64();
#pragma unroll 1
  for (int i = 0; i < iterations; i++) body.step();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - start;
  if (sink != nullptr) atomicXor(sink, body.result());
}

class Clock {
 public:
  Clock() {
    ok_ = succeeded(cudaEventCreate(&start_), "cudaEventCreate") &&
          succeeded(cudaEventCreate(&end_), "cudaEventCreate");
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  ~Clock() {
    cudaEventDestroy(start_);
    cudaEventDestroy(end_);
  }
  // Milliseconds of what `work` queues; below 0 where it failed.
  template <class Work>
  float time(const Work& work) {
    float elapsed = -1.0f;
    if (!ok_) return elapsed;
    cudaEventRecord(start_);
    work();
    cudaEventRecord(end_);
    ok_ = succeeded(cudaGetLastError(), "launch") &&
          succeeded(cudaEventSynchronize(end_), "kernel") &&
          succeeded(cudaEventElapsedTime(&elapsed, start_, end_), "cudaEventElapsedTime");
    return ok_ ? elapsed : -1.0f;
  }

 private:
  cudaEvent_t start_ = nullptr, end_ = nullptr;
  bool ok_ = false;
};

struct Sample {
  double ms, cycles;
};

// One line of the table from samples of the same work.
void print(const char* name, const char* unit, double work, int processors,
           std::vector<Sample> samples) {
  std::sort(samples.begin(), samples.end(), [](auto& x, auto& y) { return x.ms < y.ms; });
  const Sample& median = samples[samples.size() / 2];
  const double spread =
      (samples[samples.size() * 3 / 4].ms - samples[samples.size() / 4].ms) / 2 / median.ms;
  const double per_clock = median.cycles > 0 ? work / median.cycles / processors : 0;
  std::printf("\"%s\",%s,%.6g,%.6g,%.0f,%.4f\n", name, unit, work / median.ms * 1e3, per_clock,
              median.cycles / median.ms * 1e-3, spread);
  std::fflush(stdout);
}

template <class Body>
bool measure(int processors) {
  const auto blocks = static_cast<unsigned>(processors * Body::blocks_per_sm);
  if (!succeeded(cudaFuncSetAttribute(repeat<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      Body::shared_bytes),
                 Body::name)) {
    return false;
  }
  long long* cycles = nullptr;
  if (!succeeded(cudaMalloc(&cycles, blocks * sizeof(long long)), "cudaMalloc")) return false;
  Clock clock;
  std::vector<long long> counted(blocks);
  std::vector<Sample> samples;
  int iterations = 256;
  bool ok = true;
  while (ok && samples.size() < runs) {
    const float ms = clock.time([&] {
      repeat<Body><<<blocks, Body::threads, Body::shared_bytes>>>(iterations, nullptr, cycles);
    });
    ok = ms >= 0 && succeeded(cudaMemcpy(counted.data(), cycles, blocks * sizeof(long long),
                                         cudaMemcpyDeviceToHost),
                              "cudaMemcpy");
    if (ms < shortest_ms) {
      iterations *= 2;  // also warms up
      continue;
    }
    const auto longest = *std::max_element(counted.begin(), counted.end());
    samples.push_back({ms, static_cast<double>(longest)});
  }
  cudaFree(cycles);
  const double work = Body::work * Body::threads * blocks * iterations;
  if (ok) print(Body::name, Body::unit, work, processors, samples);
  return ok;
}

// Bytes read plus bytes written, device to device.
bool measure_copy(int processors) {
  void *from = nullptr, *to = nullptr;
  bool ok = succeeded(cudaMalloc(&from, copied_bytes), "cudaMalloc") &&
            succeeded(cudaMalloc(&to, copied_bytes), "cudaMalloc") &&
            succeeded(cudaMemset(from, 0x5A, copied_bytes), "cudaMemset");
  Clock clock;
  std::vector<Sample> samples;
  for (int run = 0; ok && run <= runs; run++) {
    const float ms =
        clock.time([&] { cudaMemcpyAsync(to, from, copied_bytes, cudaMemcpyDeviceToDevice); });
    ok = ms >= 0;
    if (run > 0) samples.push_back({ms, 0});
  }
  cudaFree(from);
  cudaFree(to);
  if (ok) print("device memory, copy", "bytes", 2.0 * copied_bytes, processors, samples);
  return ok;
}

int run() {
  int device = 0, processors = 0, major = 0;
  if (!succeeded(cudaGetDevice(&device), "cudaGetDevice") ||
      !succeeded(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                 "multiprocessors") ||
      !succeeded(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                 "compute capability")) {
    return 1;
  }
  std::printf("name,unit,rate,per_clock_sm,mhz,spread\n");
  bool ok = measure<WarpProducts<true>>(processors) && measure<WarpProducts<false>>(processors);
  if (major == 9) {
    ok = ok && measure<WarpgroupProducts<false>>(processors) &&
         measure<WarpgroupProducts<true>>(processors);
  }
  ok = ok && measure<Exponentials>(processors) && measure<MultiplyAdds>(processors) &&
       measure<IntegersToFloats>(processors) && measure<Packing>(processors) &&
       measure<SharedLoads>(processors) && measure_copy(processors);
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace rates

int main() { return rates::run(); }
