// The C ABI over the kernels: checks, choice of kernels, launches. Emulated or on a GPU.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "common/check.h"
#include "common/error.h"
#include "common/status.h"
#include "kernels/device.h"
#include "kernels/instructions.h"
#include "kernels/reorder_quantize/launch.h"
#include "kernels/routing/launch.h"
#include "kernels/smoothing/launch.h"
#include "kernels/sparse_attention/launch.h"
#include "kernels/summaries/launch.h"
#include "kernels/workspace.h"

namespace paro::kernels {
namespace {

using sparse_attention::Body;
using sparse_attention::Instructions;
using sparse_attention::Kernel;
using sparse_attention::Selection;

constexpr double log2_e = 1.4426950408889634;
constexpr size_t row_alignment = 16;  // rows are read and written by 16 bytes

// What a call and its launch decide, without the pointers.
struct Choice {
  Shape shape;
  int32_t sm;
  int32_t units;              // at once
  int32_t processors;         // SMs of the device; 0 where nothing is launched
  const char* against_wgmma;  // null where wgmma is used
  const Kernel* kernel;       // of stage 2
  Body body;                  // of the kernel
  const Kernel* corrector;    // whose mean correction the call takes
  size_t shared_bytes;        // that the kernel needs
};

// A library for some bits alone (PARO_CUDA_BITS) refuses the others before any kernel is loaded.
paro_status check_bits(const paro_attention& call) {
  std::array<char, 8> wanted{};
  std::snprintf(wanted.data(), wanted.size(), "%d-%d", call.qk_bits, call.pv_bits);
  std::string_view rest = built_bits();
  if (rest.empty()) return PARO_OK;
  while (!rest.empty()) {
    const size_t length = std::min(rest.find(','), rest.size());
    if (rest.substr(0, length) == wanted.data()) return PARO_OK;
    rest.remove_prefix(std::min(length + 1, rest.size()));
  }
  return fail(PARO_UNSUPPORTED,
              "qk_bits, pv_bits: expected those that this library is built for (%s), got %s; build "
              "it with -DPARO_CUDA_BITS=%s or without this option",
              built_bits(), wanted.data(), wanted.data());
}

paro_status check_supported(const paro_attention& call) {
  if (call.dtype == PARO_FLOAT32) {
    return fail(PARO_UNSUPPORTED, "dtype: expected float16 or bfloat16, got float32");
  }
  if (call.head_dim != 64 && call.head_dim != 128) {
    return fail(PARO_UNSUPPORTED, "head_dim: expected 64 or 128, got %d", call.head_dim);
  }
  if (call.smoothing && call.pv_bits == 16) {
    return fail(PARO_UNSUPPORTED,
                "pv_bits: expected 8 or 4 where smoothing is 1, which has no CUDA kernel with "
                "16-bit values, got 16");
  }
  PARO_RETURN_IF_ERROR(check_bits(call));
  const Shape shape = Shape::of(call);
  const int64_t query_blocks = int64_t{call.batch} * call.heads * shape.query_blocks;
  if (query_blocks > INT32_MAX) {
    return fail(PARO_UNSUPPORTED,
                "batch * heads * query blocks: expected at most %d thread blocks, got %lld",
                INT32_MAX, static_cast<long long>(query_blocks));
  }
  return PARO_OK;
}

// The generation that is asked for: the launch's, or that of the device.
paro_status choose_sm(const paro_attention& call, const paro_launch& launch, bool runs_here,
                      int32_t* sm) {
  int32_t here = 0;
  if (runs_here || launch.sm == 0) PARO_RETURN_IF_ERROR(current_sm(&here));
  *sm = launch.sm == 0 ? here : launch.sm;
  if (*sm < 80) {
    return fail(PARO_UNSUPPORTED, "sm: expected a GPU of sm_80 or later, got sm_%d", *sm);
  }
  if (runs_here && !runs_any_sm() && !has_kernel_of(call, *sm, here)) {
    return fail(PARO_INVALID_ARGUMENT,
                "sm: expected 0 or one whose kernel for these bits runs on this GPU, sm_%d, got %d",
                here, *sm);
  }
  return PARO_OK;
}

paro_status choose_units(const paro_attention& call, const paro_launch& launch, const Shape& shape,
                         int32_t* units) {
  const size_t least = cut_workspace(call, shape, 1, nullptr).bytes;
  if (launch.max_workspace != 0 && launch.max_workspace < least) {
    return fail(
        PARO_INVALID_ARGUMENT,
        "max_workspace: expected at least %zu bytes, which one key/value head takes, got %zu",
        least, launch.max_workspace);
  }
  *units = units_at_once(call, shape, launch.max_workspace);
  return PARO_OK;
}

// The span mask grows with the tokens, and GPUs differ in the shared memory of a thread block.
paro_status check_shared_memory(const paro_attention& call, const Choice& choice) {
  const size_t most = sparse_attention::shared_bytes_a_block(choice.sm);
  if (choice.shared_bytes <= most) return PARO_OK;
  const size_t rows = choice.kernel->mask_rows(choice.body, call.fine_summaries != 0);
  const size_t words =
      (most - choice.kernel->shared_bytes_with(0, choice.body, call.fine_summaries)) /
      sizeof(uint32_t) / rows;
  return fail(PARO_UNSUPPORTED,
              "tokens: expected at most %zu, whose mask fits the %zu bytes of shared memory of a "
              "thread block on sm_%d, got %d, which needs %zu bytes",
              words * 32 * static_cast<size_t>(choice.kernel->selection.span_keys), most, choice.sm,
              call.tokens, choice.shared_bytes);
}

paro_status choose_kernel(const paro_attention& call, Choice* choice) {
  choice->against_wgmma = reason_against_wgmma(call, choice->sm);
  const bool has_four_bit = call.qk_bits == 4 || call.pv_bits == 4;
  const Selection selection{
      .instructions =
          choice->against_wgmma == nullptr ? Instructions::wgmma : Instructions::mma_sync,
      .head_dim = call.head_dim,
      .block_q = call.block_q,
      .span_keys = call.pv_bits == 16 ? 64 : call.block_k,
      .qk = number_of(call.qk_bits, call.dtype),
      .pv = number_of(call.pv_bits, call.dtype),
      .four_bit = has_four_bit && choice->sm >= 90 ? FourBit::unpacked : FourBit::native};
  choice->kernel = sparse_attention::find_kernel(selection);
  Selection corrector = selection;
  corrector.instructions = Instructions::mma_sync;
  choice->corrector = sparse_attention::find_kernel(corrector);
  if (choice->kernel == nullptr) {
    return fail(PARO_UNSUPPORTED, "bits: expected a combination with a kernel, got QK %d, PV %d",
                call.qk_bits, call.pv_bits);
  }
  choice->body = call.smoothing        ? Body::smoothed
                 : call.fine_summaries ? Body::fine
                                       : Body::plain;
  choice->shared_bytes = choice->kernel->shared_bytes_with(
      span_mask_words(choice->shape.key_blocks, call.block_k, selection.span_keys), choice->body,
      call.fine_summaries);
  return check_shared_memory(call, *choice);
}

paro_status choose(const paro_attention* call, const paro_launch* launch, bool runs_here,
                   Choice* choice) {
  PARO_RETURN_IF_ERROR(check_shape(call));
  PARO_RETURN_IF_ERROR(check_launch(launch));
  PARO_RETURN_IF_ERROR(check_supported(*call));
  PARO_RETURN_IF_ERROR(choose_sm(*call, *launch, runs_here, &choice->sm));
  choice->shape = Shape::of(*call);
  PARO_RETURN_IF_ERROR(choose_units(*call, *launch, choice->shape, &choice->units));
  if (runs_here) PARO_RETURN_IF_ERROR(processor_count(&choice->processors));
  return choose_kernel(*call, choice);
}

paro_status prepare_stage2(const paro_attention& call, const Choice& choice) {
  if (call.mean_correction &&
      sparse_attention::prepare_correction(*choice.corrector, call.smoothing != 0) != LaunchStatus::ok) {
    return fail(PARO_RUNTIME_ERROR, "mean correction: its kernel does not load: %s",
                last_launch_message());
  }
  if (sparse_attention::prepare(*choice.kernel, choice.body) == LaunchStatus::ok) return PARO_OK;
  return fail(PARO_RUNTIME_ERROR, "stage 2: its kernel does not load: %s", last_launch_message());
}

paro_status check_rows(const char* name, const void* pointer) {
  if (reinterpret_cast<uintptr_t>(pointer) % row_alignment == 0) return PARO_OK;
  return fail(PARO_INVALID_ARGUMENT, "%s: expected alignment to %zu bytes, got address %p", name,
              row_alignment, pointer);
}

paro_status check_memory(const paro_attention& call, const void* workspace, size_t given,
                         size_t needed) {
  PARO_RETURN_IF_ERROR(check_pointers(call));
  PARO_RETURN_IF_ERROR(check_rows("query", call.query));
  PARO_RETURN_IF_ERROR(check_rows("key", call.key));
  PARO_RETURN_IF_ERROR(check_rows("value", call.value));
  PARO_RETURN_IF_ERROR(check_rows("output", call.output));
  if (workspace == nullptr || given < needed) {
    return fail(PARO_WORKSPACE_TOO_SMALL, "workspace: expected %zu bytes, got %zu", needed,
                workspace == nullptr ? size_t{0} : given);
  }
  if (reinterpret_cast<uintptr_t>(workspace) % workspace_alignment != 0) {
    return fail(PARO_INVALID_ARGUMENT, "workspace: expected alignment to %zu bytes, got address %p",
                workspace_alignment, workspace);
  }
  return PARO_OK;
}

// Of all units; a launch takes its own from `first_unit` and `units`.
Geometry geometry_of(const paro_attention& call, const Shape& shape) {
  return {.tokens = call.tokens,
          .heads = call.heads,
          .kv_heads = call.kv_heads,
          .orders = call.orders,
          .bins = call.bins,
          .query_blocks = shape.query_blocks,
          .key_blocks = shape.key_blocks,
          .summary_blocks = shape.summary_blocks,
          .mask_words = shape.mask_words,
          .block_q = call.block_q,
          .block_k = call.block_k,
          .first_unit = 0,
          .units = call.batch * call.kv_heads};
}

Plan plan_of(const paro_attention& call) {
  return {.token_order = call.token_order,
          .head_order = call.head_order,
          .block_mask = call.block_mask,
          .tile_order = call.tile_order,
          .channel_affine = call.channel_affine,
          .mask_bin = call.mask_bin,
          .key_length = call.key_length,
          .fine_mask = call.fine_summaries ? call.fine_mask : nullptr,
          .corrected_heads = call.mean_correction ? call.corrected_heads : nullptr,
          .dynamic_blocks = call.routing ? call.dynamic_blocks : nullptr,
          .rotation = call.smoothing ? call.rotation : nullptr};
}

float logit_scale(const paro_attention& call) {
  const double scale =
      call.scale != 0.0f ? double{call.scale} : 1.0 / std::sqrt(static_cast<double>(call.head_dim));
  return static_cast<float>(scale * log2_e);
}

reorder_quantize::Selection stage1_of(const paro_attention& call) {
  return {.source = number_of(16, call.dtype),
          .head_dim = call.head_dim,
          .block_k = call.block_k,
          .pooled = call.pool_dropped != 0,
          .smoothed = call.smoothing != 0};
}

TileLayout layout_of(const Selection& selection) {
  return selection.instructions == Instructions::wgmma ? TileLayout::swizzled : TileLayout::rows;
}

// Launches what version 2 computes between the stages: fine summaries, chosen blocks, corrections.
LaunchStatus launch_version_2(const paro_attention& call, const Choice& choice,
                              const AttentionParams& attention, const Workspace& workspace,
                              Stream stream) {
  const Geometry& geometry = attention.geometry;
  const Number source = number_of(16, call.dtype);
  const Selection& selection = choice.kernel->selection;
  LaunchStatus status = LaunchStatus::ok;
  if (call.fine_summaries) {
    const FineParams fine{.geometry = geometry,
                          .plan = attention.plan,
                          .key = call.key,
                          .value = call.value,
                          .fine = workspace.fine,
                          .key_number = call.smoothing ? Number::s8 : selection.qk,
                          .value_number = fine_number(selection.pv)};
    status = summaries::launch_fine_groups(fine, source, call.head_dim, stream);
  }
  if (call.routing && status == LaunchStatus::ok) {
    const RoutingParams routed{.geometry = geometry,
                               .plan = attention.plan,
                               .query = call.query,
                               .key = call.key,
                               .value = call.value,
                               .means = workspace.routing,
                               .mask = workspace.routed_mask,
                               .logit_scale = attention.logit_scale,
                               .pooled = call.pool_dropped != 0};
    status = routing::launch_stage(routed, source, call.head_dim, stream);
  }
  if (call.smoothing && status == LaunchStatus::ok) {
    const SmoothingParams smoothing{.geometry = geometry,
                                    .plan = attention.plan,
                                    .query = call.query,
                                    .keys = workspace.smoothed,
                                    .routed_mask = workspace.routed_mask,
                                    .mean_query = workspace.smoothing_query,
                                    .bias = workspace.bias,
                                    .logit_scale = attention.logit_scale};
    status = smoothing::launch_stage(smoothing, source, call.head_dim, stream);
  }
  if (call.mean_correction && status == LaunchStatus::ok) {
    status = summaries::launch_correction_queries(geometry, attention.plan, call.query,
                                                  workspace.mean_query, call.qk_bits == 16, source,
                                                  call.head_dim, stream);
  }
  if (call.mean_correction && status == LaunchStatus::ok) {
    const CorrectionParams correction{.attention = attention,
                                      .mean_query = workspace.mean_query,
                                      .correction = workspace.correction,
                                      .layout = layout_of(selection)};
    status = sparse_attention::launch_correction(*choice.corrector, call.smoothing != 0, correction,
                                                 stream);
  }
  return status;
}

// Launches both stages for the units of the geometry.
LaunchStatus launch_stages(const paro_attention& call, const Choice& choice,
                           const Geometry& geometry, const Workspace& workspace, Stream stream) {
  const Plan plan = plan_of(call);
  const Selection& selection = choice.kernel->selection;
  const ReorderParams reorder{.geometry = geometry,
                              .plan = plan,
                              .key = call.key,
                              .value = call.value,
                              .means = workspace.means,
                              .prepared = workspace.prepared,
                              .smoothed = workspace.smoothed,
                              .key_number = selection.qk,
                              .value_number = selection.pv,
                              .layout = layout_of(selection),
                              .tiles_taken = workspace.tiles_taken};
  const LaunchStatus reordered =
      reorder_quantize::launch_stage(stage1_of(call), reorder, stream);
  if (reordered != LaunchStatus::ok) return reordered;
  const int samples = (geometry.first_unit + geometry.units - 1) / geometry.kv_heads -
                      geometry.first_unit / geometry.kv_heads + 1;
  const AttentionParams attention{.geometry = geometry,
                                  .plan = plan,
                                  .query = call.query,
                                  .output = call.output,
                                  .prepared = workspace.prepared,
                                  .logit_scale = logit_scale(call),
                                  .is_bfloat16 = call.dtype == PARO_BFLOAT16,
                                  .fine = workspace.fine,
                                  .routed_mask = workspace.routed_mask,
                                  .correction = workspace.correction,
                                  .smoothed = workspace.smoothed,
                                  .mean_query = workspace.smoothing_query,
                                  .bias = workspace.bias,
                                  .tiles = call.heads * choice.shape.query_blocks * samples,
                                  .tiles_taken = workspace.tiles_taken};
  const LaunchStatus between = launch_version_2(call, choice, attention, workspace, stream);
  if (between != LaunchStatus::ok) return between;
  const int blocks =
      choice.kernel->is_persistent ? std::min(attention.tiles, choice.processors) : attention.tiles;
  return sparse_attention::launch(*choice.kernel, choice.body, attention,
                                  static_cast<unsigned>(blocks), choice.shared_bytes, stream);
}

}  // namespace
}  // namespace paro::kernels

using namespace paro;
using namespace paro::kernels;

extern "C" {

uint32_t paro_abi_version(void) { return PARO_ABI_VERSION; }

const char* paro_library_name(void) { return library_name(); }

const char* paro_last_error(void) { return last_error(); }

paro_status paro_workspace_bytes(const paro_attention* call, const paro_launch* launch,
                                 size_t* bytes) {
  Choice choice{};
  PARO_RETURN_IF_ERROR(choose(call, launch, false, &choice));
  if (bytes == nullptr) return fail(PARO_INVALID_ARGUMENT, "bytes: expected a pointer, got NULL");
  *bytes = cut_workspace(*call, choice.shape, choice.units, nullptr).bytes;
  return PARO_OK;
}

paro_status paro_describe(const paro_attention* call, const paro_launch* launch, char* text,
                          size_t capacity) {
  Choice choice{};
  PARO_RETURN_IF_ERROR(choose(call, launch, false, &choice));
  if (text == nullptr || capacity == 0) {
    return fail(PARO_INVALID_ARGUMENT, "text: expected room for one line, got none");
  }
  const Kernel& kernel = *choice.kernel;
  const bool is_wgmma = kernel.selection.instructions == Instructions::wgmma;
  const bool has_four_bit = call->qk_bits == 4 || call->pv_bits == 4;
  std::snprintf(text, capacity,
                "%s for sm_%d: %d x %d tiles, %d threads, %zu bytes of shared memory, %d "
                "heads at once; %s%s%s",
                is_wgmma ? "wgmma" : "mma.sync", choice.sm, call->block_q,
                kernel.selection.span_keys,
                choice.body == Body::smoothed ? kernel.smoothed_threads : kernel.threads,
                choice.shared_bytes, choice.units,
                is_wgmma ? "8-bit QK and PV on sm_90" : choice.against_wgmma,
                !has_four_bit ? ""
                : kernel.selection.four_bit == FourBit::native
                    ? "; 4-bit products, native to sm_80 to sm_89"
                    : "; 4-bit codes unpacked to 8, since sm_90 and later have no 4-bit products",
                choice.body == Body::smoothed ? "; smoothed QK, with biases of keys" : "");
  return PARO_OK;
}

paro_status paro_prepare(const paro_attention* call, const paro_launch* launch) {
  Choice choice{};
  PARO_RETURN_IF_ERROR(choose(call, launch, true, &choice));
  if (reorder_quantize::load_stage(stage1_of(*call)) != LaunchStatus::ok) {
    return fail(PARO_RUNTIME_ERROR, "stage 1: its kernels do not load: %s", last_launch_message());
  }
  if (call->fine_summaries &&
      summaries::load_fine_groups(number_of(16, call->dtype), call->head_dim, call->block_k) !=
          LaunchStatus::ok) {
    return fail(PARO_RUNTIME_ERROR, "fine summaries: their kernel does not load: %s",
                last_launch_message());
  }
  if (call->routing &&
      routing::load_stage(number_of(16, call->dtype), call->head_dim, call->block_k) !=
          LaunchStatus::ok) {
    return fail(PARO_RUNTIME_ERROR, "routing: its kernels do not load: %s", last_launch_message());
  }
  if (call->smoothing &&
      smoothing::load_stage(number_of(16, call->dtype), call->head_dim, call->block_q,
                            call->block_k) != LaunchStatus::ok) {
    return fail(PARO_RUNTIME_ERROR, "smoothing: its kernels do not load: %s",
                last_launch_message());
  }
  if (call->mean_correction &&
      summaries::load_correction_queries(number_of(16, call->dtype), call->head_dim) !=
          LaunchStatus::ok) {
    return fail(PARO_RUNTIME_ERROR, "mean correction: its queries' kernel does not load: %s",
                last_launch_message());
  }
  return prepare_stage2(*call, choice);
}

paro_status paro_forward(const paro_attention* call, const paro_launch* launch, void* workspace,
                         size_t workspace_bytes) {
  Choice choice{};
  PARO_RETURN_IF_ERROR(choose(call, launch, true, &choice));
  const Workspace cut = cut_workspace(*call, choice.shape, choice.units, workspace);
  PARO_RETURN_IF_ERROR(check_memory(*call, workspace, workspace_bytes, cut.bytes));
  PARO_RETURN_IF_ERROR(prepare_stage2(*call, choice));
  const Geometry all = geometry_of(*call, choice.shape);
  for (int32_t first = 0; first < all.units; first += choice.units) {
    Geometry group = all;
    group.first_unit = first;
    group.units = std::min(choice.units, all.units - first);
    const auto stream = static_cast<Stream>(launch->stream);
    if (launch_stages(*call, choice, group, cut, stream) != LaunchStatus::ok) {
      return fail(PARO_RUNTIME_ERROR, "launch: %s", last_launch_message());
    }
  }
  return PARO_OK;
}

paro_status paro_measure_peak(const paro_launch* launch, double* flops_per_second) {
  PARO_RETURN_IF_ERROR(check_launch(launch));
  if (flops_per_second == nullptr) {
    return fail(PARO_INVALID_ARGUMENT, "flops_per_second: expected a pointer, got NULL");
  }
  return measure_peak(launch->stream, flops_per_second);
}

}  // extern "C"
