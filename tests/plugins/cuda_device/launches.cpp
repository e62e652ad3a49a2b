// The C ABI's launches on the cuda_runtime.h next to it, without kernels: which of them the runtime
// refuses, and what they leave behind. `launches CHECK` prints what is wrong.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "common/error.h"
#include "kernels/device.h"
#include "kernels/reorder_quantize/launch.h"
#include "kernels/routing/launch.h"
#include "kernels/sparse_attention/launch.h"
#include "kernels/smoothing/launch.h"
#include "kernels/summaries/launch.h"
#include "tensorrt/plugin.h"

namespace paro::kernels {

// Stage 1 has one kernel.
static void stage1(ReorderParams) {}

LaunchStatus reorder_quantize::load_stage(const Selection&) { return load_kernel(stage1); }
LaunchStatus reorder_quantize::launch_stage(const Selection&, const ReorderParams& params,
                                            Stream stream) {
  return launch(stage1, {.grid = dim3(1), .block = dim3(256), .stream = stream}, params);
}

// Version 2 is not launched here.
LaunchStatus routing::load_stage(Number, int, int) { return LaunchStatus::ok; }
LaunchStatus routing::launch_stage(const RoutingParams&, Number, int, Stream) {
  return LaunchStatus::ok;
}
LaunchStatus smoothing::load_stage(Number, int, int, int) { return LaunchStatus::ok; }
LaunchStatus smoothing::launch_stage(const SmoothingParams&, Number, int, Stream) {
  return LaunchStatus::ok;
}
LaunchStatus summaries::load_fine_groups(Number, int, int) { return LaunchStatus::ok; }
LaunchStatus summaries::launch_fine_groups(const FineParams&, Number, int, Stream) {
  return LaunchStatus::ok;
}
LaunchStatus summaries::load_correction_queries(Number, int) { return LaunchStatus::ok; }
LaunchStatus summaries::launch_correction_queries(const Geometry&, const Plan&, const void*, float*,
                                                  bool, Number, int, Stream) {
  return LaunchStatus::ok;
}

// Stage 2 has one for 8 bits and one for 16. With short sequences they need more than 48 KB.
static void stage2_8bit(AttentionParams) {}
static void stage2_16bit(AttentionParams) {}

const sparse_attention::Kernel* sparse_attention::find_kernel(const Selection& selection) {
  static DeviceSet allowed_8bit, allowed_16bit;
  static const Kernel kernel_8bit{.selection = selection, .threads = 128, .blocks_an_sm = 2,
                                  .shared_bytes = 60000,
                                  .is_persistent = true,
                                  .function = stage2_8bit, .allowed = &allowed_8bit};
  static const Kernel kernel_16bit{.selection = selection, .threads = 128, .blocks_an_sm = 2,
                                   .shared_bytes = 76000, .function = stage2_16bit,
                                   .allowed = &allowed_16bit};
  return selection.qk == Number::s8 ? &kernel_8bit : &kernel_16bit;
}

paro_status measure_peak(void*, double*) noexcept { return PARO_UNSUPPORTED; }

}  // namespace paro::kernels

namespace {

constexpr int few_tokens = 64, many_tokens = 1 << 20;

alignas(256) unsigned char memory[256];  // never touched

paro_attention call_of(int tokens, int bits) {
  paro_attention call{};
  call.struct_size = sizeof call;
  call.batch = call.heads = call.kv_heads = call.orders = call.bins = 1;
  call.tokens = tokens;
  call.head_dim = call.block_q = call.block_k = 64;
  call.qk_bits = call.pv_bits = bits;
  call.query = call.key = call.value = call.output = memory;
  const auto* integers = reinterpret_cast<const int32_t*>(memory);
  call.token_order = call.head_order = call.block_mask = call.tile_order = integers;
  call.mask_bin = call.key_length = integers;
  call.channel_affine = reinterpret_cast<const float*>(memory);
  return call;
}

const paro_launch launch_here = [] {
  paro_launch launch{};
  launch.struct_size = sizeof launch;
  return launch;
}();

paro_status prepare(int tokens, int bits = 8) {
  const paro_attention call = call_of(tokens, bits);
  return paro_prepare(&call, &launch_here);
}

paro_status forward(int tokens, int bits = 8) {
  const paro_attention call = call_of(tokens, bits);
  size_t bytes = 0;
  const paro_status status = paro_workspace_bytes(&call, &launch_here, &bytes);
  return status == PARO_OK ? paro_forward(&call, &launch_here, memory, bytes) : status;
}

void expect(paro_status wanted, paro_status found, const char* what) {
  if (found == wanted) return;
  std::printf("%s: status %d: %s\n", what, found, paro_last_error());
}

void expect(bool condition, const char* what) {
  if (!condition) std::printf("%s\n", what);
}

void in_two_threads() {
  const auto calls = [](int tokens) {
    for (int i = 0; i < 40; i++) expect(PARO_OK, forward(tokens), "a launch of one of two threads");
  };
  std::thread other(calls, few_tokens);
  calls(many_tokens);
  other.join();
}

// As attachToContext prepares kernels, while another context runs.
void prepared_elsewhere() {
  expect(PARO_OK, prepare(many_tokens), "prepare");
  expect(PARO_OK, forward(many_tokens), "a launch");
  expect(PARO_OK, prepare(1), "prepare for one token");
  expect(PARO_OK, forward(many_tokens), "a launch after another context prepared");
}

void once_for_each_device() {
  for (const int device : {3, 0, 3}) {
    fake_cuda::device = device;
    for (const int tokens : {few_tokens, many_tokens, few_tokens}) {
      expect(PARO_OK, prepare(tokens), "prepare");
      expect(PARO_OK, forward(tokens), "a launch");
    }
  }
  for (const auto& [function, count] : fake_cuda::limited) expect(count == 1, "limits set again");
  expect(fake_cuda::limited.size() == 2, "limits: expected those of one kernel on two devices");
  const int most = fake_cuda::most_shared_bytes();
  for (const auto& [function, limit] : fake_cuda::limits) expect(limit == most, "another limit");
}

// Thread blocks that compute several tiles: one for each SM of the device, which is asked once, and
// no more than there are tiles. Others: one for each tile.
void as_many_blocks_as_processors() {
  const auto blocks = [](void (*kernel)(paro::kernels::AttentionParams)) {
    return fake_cuda::blocks[{fake_cuda::device, reinterpret_cast<const void*>(kernel)}];
  };
  for (const int device : {3, 0, 3}) {
    fake_cuda::device = device;
    expect(PARO_OK, forward(64 * 100), "a launch of 100 tiles");
    const auto processors = static_cast<unsigned>(fake_cuda::processors(device));
    expect(blocks(paro::kernels::stage2_8bit) == processors, "blocks: expected one for each SM");
    expect(PARO_OK, forward(64 * 2), "a launch of two tiles");
    expect(blocks(paro::kernels::stage2_8bit) == 2, "blocks: expected one for each tile");
    expect(PARO_OK, forward(64 * 100, 16), "a launch of other kernels");
    expect(blocks(paro::kernels::stage2_16bit) == 100, "others: expected a block for each tile");
  }
  for (const auto& [device, count] : fake_cuda::counted) expect(count == 1, "SMs asked again");
  expect(fake_cuda::counted.size() == 2, "SMs: expected those of two devices");
}

// A kernel that the device does not have leaves nothing behind, and is tried again later.
void absent_kernel() {
  const auto* kernel = reinterpret_cast<const void*>(paro::kernels::stage2_16bit);
  fake_cuda::absent.insert(kernel);
  expect(PARO_RUNTIME_ERROR, prepare(few_tokens, 16), "prepare without a kernel");
  expect(std::strstr(paro_last_error(), "invalid device function") != nullptr, paro_last_error());
  expect(fake_cuda::last_error == cudaSuccess, "prepare left its error behind");
  expect(PARO_OK, forward(few_tokens), "a good launch after a failed prepare");
  expect(PARO_RUNTIME_ERROR, forward(few_tokens, 16), "a launch without a kernel");
  fake_cuda::absent.clear();
  expect(PARO_OK, forward(few_tokens, 16), "a launch once the kernel is there");
}

void failed_launch() {
  const auto* kernel = reinterpret_cast<const void*>(paro::kernels::stage1);
  expect(PARO_OK, prepare(few_tokens), "prepare");
  fake_cuda::absent.insert(kernel);
  expect(PARO_RUNTIME_ERROR, forward(few_tokens), "a launch without a kernel");
  expect(fake_cuda::last_error == cudaSuccess, "a launch left its error behind");
  fake_cuda::absent.clear();
  expect(PARO_OK, forward(few_tokens), "a good launch after a failed one");
}

// Errors of other libraries in the thread are neither ours nor taken from them.
void error_of_others() {
  expect(PARO_OK, prepare(few_tokens), "prepare");
  fake_cuda::last_error = cudaErrorNoDevice;
  expect(PARO_OK, forward(few_tokens), "a launch after an error of others");
  expect(fake_cuda::last_error == cudaErrorNoDevice, "an error of others was taken");
}

// The 16-bit kernel's mask of the longest sequence fits 163 KB, but not 99 KB: it is refused there
// by name, before any launch.
void too_many_tokens() {
  if (fake_cuda::sm() == 80) {
    expect(PARO_OK, prepare(PARO_MAX_TOKENS, 16), "prepare");
    expect(PARO_OK, forward(PARO_MAX_TOKENS, 16), "a launch");
    return;
  }
  expect(PARO_UNSUPPORTED, prepare(PARO_MAX_TOKENS, 16), "prepare");
  expect(std::strncmp(paro_last_error(), "tokens: expected at most ", 25) == 0, paro_last_error());
  expect(PARO_UNSUPPORTED, forward(PARO_MAX_TOKENS, 16), "a launch");
  expect(fake_cuda::limited.empty(), "a limit was set");
}

nvinfer1::DynamicPluginTensorDesc tensor(nvinfer1::DataType type,
                                         std::initializer_list<int64_t> sizes) {
  nvinfer1::DynamicPluginTensorDesc result{};
  result.desc.type = type;
  result.desc.dims.nbDims = static_cast<int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), result.desc.dims.d);
  result.min = result.opt = result.max = result.desc.dims;
  return result;
}

// As TensorRT's builder configures the plugin.
int32_t configure(int64_t tokens, int bits = 16) {
  using nvinfer1::DataType;
  paro::trt::PluginAttributes attributes;
  attributes.block_q = attributes.block_k = 64;
  attributes.qk_bits = attributes.pv_bits = bits;
  paro::trt::AttentionPlugin plugin(attributes);
  const int64_t blocks = (tokens + 63) / 64, words = (blocks + 31) / 32;
  const nvinfer1::DynamicPluginTensorDesc inputs[] = {
      tensor(DataType::kHALF, {1, tokens, 1, 64}),
      tensor(DataType::kHALF, {1, tokens, 1, 64}),
      tensor(DataType::kHALF, {1, tokens, 1, 64}),
      tensor(DataType::kINT32, {1, tokens}),
      tensor(DataType::kINT32, {1}),
      tensor(DataType::kINT32, {1, 1, blocks, words}),
      tensor(DataType::kINT32, {1, blocks}),
      tensor(DataType::kFLOAT, {PARO_AFFINE_ROWS, 1, 64}),
      tensor(DataType::kINT32, {1}),
      tensor(DataType::kINT32, {1})};
  return plugin.configurePlugin(inputs, 10, inputs, 1);
}

// The builder's GPU refuses a call before there is an engine.
void refused_by_the_builder() {
  expect(configure(few_tokens) == 0, "configure: few tokens refused");
  const bool runs = fake_cuda::sm() == 80;
  expect((configure(PARO_MAX_TOKENS) == 0) == runs, "configure: many tokens");
  if (!runs) expect(std::strstr(paro_last_error(), "on sm_89") != nullptr, paro_last_error());
}

// Of a library for 8-8 and 16-16 alone, the builder refuses other bits, and so does every call.
void bits_left_out() {
  expect(configure(few_tokens, 4) != 0, "configure: 4 bits were taken");
  const char* said = "qk_bits, pv_bits: expected those that this library is built for (8-8,16-16), got 4-4";
  expect(std::strncmp(paro_last_error(), said, std::strlen(said)) == 0, paro_last_error());
  expect(PARO_UNSUPPORTED, prepare(few_tokens, 4), "prepare");
  expect(PARO_UNSUPPORTED, forward(few_tokens, 4), "a launch");
  expect(PARO_OK, prepare(few_tokens, 8), "prepare with the first bits");
  expect(PARO_OK, prepare(few_tokens, 16), "prepare with the last bits");
}

void no_device() {
  for (const char* driver : {"12080", "0", "-1"}) {
    setenv("FAKE_ERROR", "35", 1);
    setenv("FAKE_DRIVER", driver, 1);
    expect(PARO_NO_DEVICE, prepare(few_tokens), "prepare without a GPU");
    expect(PARO_NO_DEVICE, forward(few_tokens), "a launch without a GPU");
    expect(fake_cuda::last_error == cudaSuccess, "an error was left behind without a GPU");
  }
}

void built_without_a_gpu() {
  setenv("FAKE_ERROR", "100", 1);
  expect(configure(PARO_MAX_TOKENS) == 0, "configure: refused without a GPU");
}

constexpr struct {
  const char* name;
  void (*run)();
} checks[] = {{"in_two_threads", in_two_threads},
              {"prepared_elsewhere", prepared_elsewhere},
              {"once_for_each_device", once_for_each_device},
              {"as_many_blocks_as_processors", as_many_blocks_as_processors},
              {"absent_kernel", absent_kernel},
              {"failed_launch", failed_launch},
              {"error_of_others", error_of_others},
              {"too_many_tokens", too_many_tokens},
              {"refused_by_the_builder", refused_by_the_builder},
              {"bits_left_out", bits_left_out},
              {"no_device", no_device},
              {"built_without_a_gpu", built_without_a_gpu}};

}  // namespace

int main(int count, char** words) {
  for (const auto& check : checks) {
    if (count == 2 && std::strcmp(words[1], check.name) == 0) {
      check.run();
      return 0;
    }
  }
  std::printf("check: expected one of launches.cpp, got %s\n", count == 2 ? words[1] : "none");
  return 2;
}
