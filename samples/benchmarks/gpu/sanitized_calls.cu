// Small calls of the library for compute-sanitizer to watch: sanitized_calls LIBRARY [none|memory|race]
//
//   nvcc -std=c++20 -lineinfo -Iplugins -Iplugins/include -gencode arch=compute_90a,code=sm_90a
//        samples/benchmarks/gpu/sanitized_calls.cu -o sanitized_calls
//   compute-sanitizer --tool memcheck ./sanitized_calls paro_trt/lib/libparo_attention.so
//
// The last argument plants a fault, which the tool must report: what it says of the library is worth
// nothing where it does not. The workspace stays uninitialised, for initcheck.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "paro/paro_c.h"

namespace sanitized {
namespace {

constexpr int batch = 2, tokens = 300, heads = 4, kv_heads = 2, orders = 3, bins = 2;

bool succeeded(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return true;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  return false;
}

#ifdef __CUDACC__
__global__ void write_behind(int* memory, int count) {
  if (threadIdx.x == 0) memory[count] = 1;
}

__global__ void race(int* out) {
  __shared__ int words[64];
  words[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = words[63 - threadIdx.x];  // nothing orders it behind the other warp's write
}

bool plant(const char* fault) {
  int* memory = nullptr;
  if (!succeeded(cudaMalloc(&memory, 64 * sizeof(int)), "cudaMalloc")) return false;
  if (std::strcmp(fault, "memory") == 0) write_behind<<<1, 32>>>(memory, 64);
  if (std::strcmp(fault, "race") == 0) race<<<1, 64>>>(memory);
  const bool ran = succeeded(cudaDeviceSynchronize(), "planted fault");
  cudaFree(memory);
  return ran;
}
#endif

// Device memory that is freed with the list.
class Buffers {
 public:
  ~Buffers() {
    for (void* memory : all_) cudaFree(memory);
  }
  template <class T>
  T* upload(const std::vector<T>& content) {
    void* memory = take(content.size() * sizeof(T));
    ok &= memory != nullptr && succeeded(cudaMemcpy(memory, content.data(),
                                                    content.size() * sizeof(T),
                                                    cudaMemcpyHostToDevice),
                                         "cudaMemcpy");
    return static_cast<T*>(memory);
  }
  void* take(size_t bytes) {
    void* memory = nullptr;
    ok &= succeeded(cudaMalloc(&memory, bytes), "cudaMalloc");
    all_.push_back(memory);
    return memory;
  }
  bool ok = true;

 private:
  std::vector<void*> all_;
};

std::mt19937 generator(std::random_device{}());

// FP16 numbers of both signs, 1 to 2.
std::vector<uint16_t> random_halves(size_t count) {
  std::vector<uint16_t> bits(count);
  for (uint16_t& x : bits) x = static_cast<uint16_t>((generator() & 0x83FF) | 0x3C00);
  return bits;
}

bool is_finite_half(uint16_t bits) { return (bits & 0x7C00) != 0x7C00; }

// Half of the key blocks of every row, in words whose padding bits are 0.
std::vector<int32_t> random_mask(int query_blocks, int key_blocks) {
  std::vector<int32_t> words(static_cast<size_t>(bins * heads * query_blocks));
  for (int32_t& word : words) {
    word = static_cast<int32_t>(generator() & ((1u << key_blocks) - 1));
  }
  return words;
}

// `version_2`: with fine summaries, blocks chosen at run time and the mean correction, and 4-bit Q K^T
// is smoothed.
struct Case {
  int head_dim, block_q, block_k, qk_bits, pv_bits;
  bool version_2;
};

// Every second head rotated, by random signs.
std::vector<int32_t> random_rotation(int head_dim) {
  std::vector<int32_t> signs(static_cast<size_t>(kv_heads * head_dim));
  for (size_t i = 0; i < signs.size(); i++) {
    const bool rotated = i / static_cast<size_t>(head_dim) % 2 == 1;
    signs[i] = !rotated ? 0 : generator() % 2 == 0 ? 1 : -1;
  }
  return signs;
}

// The inputs of a case, random; needs at most 32 key blocks.
paro_attention make_call(const Case& c, Buffers& buffers) {
  const int query_blocks = (tokens + c.block_q - 1) / c.block_q;
  const int key_blocks = (tokens + c.block_k - 1) / c.block_k;
  const size_t channels = static_cast<size_t>(c.head_dim);
  std::vector<int32_t> order(orders * tokens), schedule(bins * heads * query_blocks);
  for (int o = 0; o < orders; o++) {
    const auto row = order.begin() + o * tokens;
    std::iota(row, row + tokens, 0);
    std::shuffle(row, row + tokens, generator);
  }
  for (size_t i = 0; i < schedule.size(); i++) {
    schedule[i] = static_cast<int32_t>(i) % (heads * query_blocks);
  }
  std::vector<float> affine(4 * kv_heads * channels);
  for (size_t i = 0; i < affine.size(); i++) {
    affine[i] = i / (kv_heads * channels) % 2 == 0 ? 0.25f : 1.5f;
  }
  paro_attention call{};
  call.struct_size = sizeof call;
  call.batch = batch;
  call.tokens = tokens;
  call.heads = heads;
  call.kv_heads = kv_heads;
  call.head_dim = c.head_dim;
  call.orders = orders;
  call.bins = bins;
  call.dtype = PARO_FLOAT16;
  call.block_q = c.block_q;
  call.block_k = c.block_k;
  call.qk_bits = c.qk_bits;
  call.pv_bits = c.pv_bits;
  call.pool_dropped = 1;
  call.query = buffers.upload(random_halves(batch * tokens * heads * channels));
  call.key = buffers.upload(random_halves(batch * tokens * kv_heads * channels));
  call.value = buffers.upload(random_halves(batch * tokens * kv_heads * channels));
  call.token_order = buffers.upload(order);
  call.head_order = buffers.upload(std::vector<int32_t>{0, 0, 2, 2});
  call.block_mask = buffers.upload(random_mask(query_blocks, key_blocks));
  call.tile_order = buffers.upload(schedule);
  call.channel_affine = buffers.upload(affine);
  call.mask_bin = buffers.upload(std::vector<int32_t>{1, 0});
  call.key_length = buffers.upload(std::vector<int32_t>{tokens, 171});
  if (c.version_2) {
    call.fine_summaries = call.mean_correction = call.routing = 1;
    call.fine_mask = buffers.upload(random_mask(query_blocks, key_blocks));
    call.corrected_heads = buffers.upload(std::vector<int32_t>{1, 0, 1, 1});
    call.dynamic_blocks = buffers.upload(std::vector<int32_t>{1, 0, 2, 1, 0, 3, 1, 1});
    call.smoothing = c.qk_bits == 4 ? 1 : 0;
    if (call.smoothing) call.rotation = buffers.upload(random_rotation(c.head_dim));
  }
  call.output = buffers.take(batch * tokens * heads * channels * sizeof(uint16_t));
  return call;
}

struct Library {
  decltype(&paro_describe) describe;
  decltype(&paro_workspace_bytes) workspace_bytes;
  decltype(&paro_prepare) prepare;
  decltype(&paro_forward) forward;
  decltype(&paro_last_error) last_error;

  bool load(const char* path) {
    void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      return false;
    }
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(handle, name));
      return function != nullptr;
    };
    return find(describe, "paro_describe") && find(workspace_bytes, "paro_workspace_bytes") &&
           find(prepare, "paro_prepare") && find(forward, "paro_forward") &&
           find(last_error, "paro_last_error");
  }
};

// Every element of the output must be finite: this is no test of values, but nothing may be unwritten.
bool run_case(const Library& library, const Case& c, int32_t sm, std::string* kernel) {
  Buffers buffers;
  const paro_attention call = make_call(c, buffers);
  paro_launch launch{};
  launch.struct_size = sizeof launch;
  launch.sm = sm;
  size_t bytes = 0;
  char text[512] = "";
  if (!buffers.ok) return false;
  if (library.describe(&call, &launch, text, sizeof text) != PARO_OK ||
      library.workspace_bytes(&call, &launch, &bytes) != PARO_OK ||
      library.prepare(&call, &launch) != PARO_OK ||
      library.forward(&call, &launch, buffers.take(bytes), bytes) != PARO_OK) {
    std::fprintf(stderr, "%s\n", library.last_error());
    return false;
  }
  *kernel = text;
  *kernel = kernel->substr(0, kernel->find(" for "));
  std::vector<uint16_t> output(static_cast<size_t>(batch * tokens * heads * c.head_dim));
  if (!succeeded(cudaMemcpy(output.data(), call.output, output.size() * sizeof(uint16_t),
                            cudaMemcpyDeviceToHost),
                 text)) {
    return false;
  }
  return std::all_of(output.begin(), output.end(), is_finite_half);
}

int run(const char* path) {
  Library library{};
  int major = 0;
  if (!library.load(path) ||
      !succeeded(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "device")) {
    return 2;
  }
  // 100: what GPUs without wgmma run.
  const std::vector<int32_t> generations = major == 9 ? std::vector<int32_t>{0, 100}
                                                      : std::vector<int32_t>{0};
  const std::pair<int, int> bits[] = {{16, 16}, {8, 8}, {4, 4}, {8, 16}};
  int calls = 0;
  std::string kernels;
  std::vector<Case> cases;
  for (const int head_dim : {64, 128}) {
    for (const auto& [qk, pv] : bits) {
      for (const int block : {64, 128}) {
        for (const bool version_2 : {false, true}) {
          cases.push_back({head_dim, 192 - block, block, qk, pv, version_2});
        }
      }
    }
  }
  for (const int32_t sm : generations) {
    for (const Case& c : cases) {
      std::string kernel;
      if (!run_case(library, c, sm, &kernel)) {
        std::fprintf(stderr, "sm %d head_dim %d bits %d %d block_k %d version %d\n", sm, c.head_dim,
                     c.qk_bits, c.pv_bits, c.block_k, c.version_2 ? 2 : 1);
        return 1;
      }
      if (kernels.find(kernel) == std::string::npos) kernels += " " + kernel;
      calls++;
    }
  }
  std::printf("%d calls, kernels:%s\n", calls, kernels.c_str());
  return 0;
}

}  // namespace
}  // namespace sanitized

int main(int count, char** arguments) {
  if (count != 2 && count != 3) {
    std::fprintf(stderr, "usage: %s LIBRARY [none|memory|race]\n", arguments[0]);
    return 2;
  }
#ifdef __CUDACC__
  if (count == 3 && std::strcmp(arguments[2], "none") != 0) {
    return sanitized::plant(arguments[2]) ? 0 : 1;
  }
#endif
  return sanitized::run(arguments[1]);
}
