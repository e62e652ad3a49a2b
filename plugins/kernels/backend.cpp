// The C ABI over the kernels: checks, choice of kernels, launches. Emulated or on a GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "common/check.h"
#include "common/error.h"
#include "kernels/device.h"
#include "kernels/instructions.h"
#include "kernels/reorder_quantize/launch.h"
#include "kernels/sparse_attention/launch.h"
#include "kernels/workspace.h"

namespace paro::kernels {
namespace {

constexpr double log2_e = 1.4426950408889634;
constexpr size_t workspace_alignment = 256;
constexpr size_t row_alignment = 16;  // rows are read and written by 16 bytes

// Everything that is known of a call without its pointers.
struct Chosen {
  Shape shape;
  int32_t sm;
  int32_t units;  // at once
  sparse_attention::Selection selection;
  const char* against_wgmma;  // null where it is used
};

paro_status check_supported(const paro_attention& call) {
  if (call.dtype == PARO_FLOAT32) {
    return fail(PARO_UNSUPPORTED, "dtype: expected float16 or bfloat16, got float32");
  }
  if (call.head_dim != 64 && call.head_dim != 128) {
    return fail(PARO_UNSUPPORTED, "head_dim: expected 64 or 128, got %d", call.head_dim);
  }
  const Shape shape = Shape::of(call);
  const int64_t tiles = int64_t{call.batch} * call.heads * shape.query_blocks;
  if (tiles > INT32_MAX) {
    return fail(PARO_UNSUPPORTED,
                "batch * heads * query blocks: expected at most %d thread blocks, got %lld",
                INT32_MAX, static_cast<long long>(tiles));
  }
  return PARO_OK;
}

paro_status choose(const paro_attention* call, const paro_launch* launch, bool runs_here,
                   Chosen* chosen) {
  if (const paro_status status = check_shape(call); status != PARO_OK) return status;
  if (const paro_status status = check_launch(launch); status != PARO_OK) return status;
  if (const paro_status status = check_supported(*call); status != PARO_OK) return status;
  chosen->sm = launch->sm;
  int32_t here = 0;
  if (runs_here || launch->sm == 0) {
    if (const paro_status status = current_sm(&here); status != PARO_OK) return status;
    if (chosen->sm == 0) chosen->sm = here;
  }
  if (chosen->sm < 80) {
    return fail(PARO_UNSUPPORTED, "sm: expected a GPU of sm_80 or later, got sm_%d", chosen->sm);
  }
  if (runs_here && !runs_any_sm() && !has_kernel_of(*call, chosen->sm, here)) {
    return fail(PARO_INVALID_ARGUMENT,
                "sm: expected 0 or one whose kernel for these bits runs on this GPU, sm_%d, got %d",
                here, chosen->sm);
  }
  chosen->shape = Shape::of(*call);
  const size_t least = cut_workspace(*call, chosen->shape, 1, nullptr).bytes;
  if (launch->max_workspace != 0 && launch->max_workspace < least) {
    return fail(
        PARO_INVALID_ARGUMENT,
        "max_workspace: expected at least %zu bytes, which one key/value head takes, got %zu",
        least, launch->max_workspace);
  }
  chosen->units = units_at_once(*call, chosen->shape, launch->max_workspace);
  chosen->against_wgmma = reason_against_wgmma(*call, chosen->sm);
  using sparse_attention::FourBit;
  using sparse_attention::Instructions;
  chosen->selection = {
      chosen->against_wgmma == nullptr ? Instructions::wgmma : Instructions::mma_sync,
      call->head_dim,
      call->block_q,
      call->pv_bits == 16 ? 64 : call->block_k,
      number_of(call->qk_bits, call->dtype),
      number_of(call->pv_bits, call->dtype),
      chosen->sm < 90 ? FourBit::native : FourBit::unpacked};
  return PARO_OK;
}

// A bit for each step's keys.
int mask_words(const paro_attention& call, const Chosen& chosen) {
  const int steps_a_block = call.block_k / chosen.selection.step_keys;
  return (chosen.shape.key_blocks * steps_a_block + 31) / 32;
}

paro_status allow_shared(const paro_attention& call, const Chosen& chosen) {
  const auto kernel = sparse_attention::find_kernel(chosen.selection);
  const size_t bytes = kernel.shared_bytes(mask_words(call, chosen));
  if (kernel.allow(bytes) != LaunchStatus::ok) {
    return fail(PARO_UNSUPPORTED, "tokens: expected what fits %zu bytes of shared memory: %s",
                bytes, last_launch_message());
  }
  return PARO_OK;
}

paro_status check_rows(const char* name, const void* pointer) {
  if (reinterpret_cast<uintptr_t>(pointer) % row_alignment == 0) return PARO_OK;
  return fail(PARO_INVALID_ARGUMENT, "%s: expected alignment to %zu bytes, got address %p", name,
              row_alignment, pointer);
}

paro_status check_memory(const paro_attention& call, const void* workspace, size_t given,
                         size_t needed) {
  if (const paro_status status = check_pointers(call); status != PARO_OK) return status;
  if (const paro_status status = check_rows("query", call.query); status != PARO_OK) return status;
  if (const paro_status status = check_rows("key", call.key); status != PARO_OK) return status;
  if (const paro_status status = check_rows("value", call.value); status != PARO_OK) return status;
  if (const paro_status status = check_rows("output", call.output); status != PARO_OK)
    return status;
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

Geometry geometry_of(const paro_attention& call, const Shape& shape) {
  return {call.tokens,
          call.heads,
          call.kv_heads,
          call.orders,
          call.bins,
          shape.query_blocks,
          shape.key_blocks,
          shape.summary_blocks,
          shape.mask_words,
          call.block_k,
          0,
          0};
}

float logit_scale(const paro_attention& call) {
  const double scale =
      call.scale != 0.0f ? double{call.scale} : 1.0 / std::sqrt(static_cast<double>(call.head_dim));
  return static_cast<float>(scale * log2_e);
}

// Both stages for units first_unit ... of the geometry.
LaunchStatus launch_group(const paro_attention& call, const Chosen& chosen,
                          const Geometry& geometry, const Workspace& workspace, Stream stream) {
  const Plan plan{call.token_order,    call.head_order, call.block_mask, call.tile_order,
                  call.channel_affine, call.mask_bin,   call.key_length};
  const TileLayout layout =
      chosen.against_wgmma == nullptr ? TileLayout::swizzled : TileLayout::rows;
  const ReorderParams reorder{geometry,
                              plan,
                              call.key,
                              call.value,
                              workspace.means,
                              workspace.prepared,
                              chosen.selection.qk,
                              chosen.selection.pv,
                              layout,
                              call.pool_dropped != 0};
  const Number source = number_of(16, call.dtype);
  if (const LaunchStatus status =
          reorder_quantize::launch_stage(reorder, source, call.head_dim, stream);
      status != LaunchStatus::ok) {
    return status;
  }
  const AttentionParams attention{geometry,
                                  plan,
                                  call.query,
                                  call.output,
                                  workspace.prepared,
                                  logit_scale(call),
                                  call.dtype == PARO_BFLOAT16};
  const int samples = (geometry.first_unit + geometry.units - 1) / geometry.kv_heads -
                      geometry.first_unit / geometry.kv_heads + 1;
  const auto blocks = static_cast<unsigned>(call.heads * chosen.shape.query_blocks * samples);
  const auto kernel = sparse_attention::find_kernel(chosen.selection);
  return kernel.launch(attention, {dim3(blocks), dim3(static_cast<unsigned>(kernel.threads)),
                                   kernel.shared_bytes(mask_words(call, chosen)), stream});
}

}  // namespace
}  // namespace paro::kernels

using paro::fail;
using paro::kernels::Chosen;

extern "C" {

uint32_t paro_abi_version(void) { return PARO_ABI_VERSION; }

const char* paro_library_name(void) { return paro::kernels::library_name(); }

const char* paro_last_error(void) { return paro::last_error(); }

paro_status paro_workspace_bytes(const paro_attention* call, const paro_launch* launch,
                                 size_t* bytes) {
  Chosen chosen{};
  if (const paro_status status = paro::kernels::choose(call, launch, false, &chosen);
      status != PARO_OK) {
    return status;
  }
  if (bytes == nullptr) return fail(PARO_INVALID_ARGUMENT, "bytes: expected a pointer, got NULL");
  *bytes = paro::kernels::cut_workspace(*call, chosen.shape, chosen.units, nullptr).bytes;
  return PARO_OK;
}

paro_status paro_describe(const paro_attention* call, const paro_launch* launch, char* text,
                          size_t capacity) {
  Chosen chosen{};
  if (const paro_status status = paro::kernels::choose(call, launch, false, &chosen);
      status != PARO_OK) {
    return status;
  }
  if (text == nullptr || capacity == 0) {
    return fail(PARO_INVALID_ARGUMENT, "text: expected room for one line, got none");
  }
  const auto kernel = paro::kernels::sparse_attention::find_kernel(chosen.selection);
  const bool four = call->qk_bits == 4 || call->pv_bits == 4;
  std::snprintf(text, capacity,
                "%s for sm_%d: %d x %d tiles, %d threads, %zu bytes of shared memory, %d "
                "heads at once; %s%s",
                chosen.against_wgmma == nullptr ? "wgmma" : "mma.sync", chosen.sm, call->block_q,
                chosen.selection.step_keys, kernel.threads,
                kernel.shared_bytes(paro::kernels::mask_words(*call, chosen)), chosen.units,
                chosen.against_wgmma == nullptr ? "8-bit QK and PV on sm_90" : chosen.against_wgmma,
                !four            ? ""
                : chosen.sm < 90 ? "; 4-bit products, native to sm_80 to sm_89"
                                 : "; 4-bit codes unpacked to 8, since sm_90 and later have no "
                                   "4-bit products");
  return PARO_OK;
}

paro_status paro_prepare(const paro_attention* call, const paro_launch* launch) {
  Chosen chosen{};
  if (const paro_status status = paro::kernels::choose(call, launch, true, &chosen);
      status != PARO_OK) {
    return status;
  }
  const auto source = paro::kernels::number_of(16, call->dtype);
  if (paro::kernels::reorder_quantize::load_stage(source, call->head_dim, call->block_k,
                                                  call->pool_dropped != 0) !=
      paro::LaunchStatus::ok) {
    return fail(PARO_RUNTIME_ERROR, "stage 1: its kernels do not load: %s",
                paro::last_launch_message());
  }
  return paro::kernels::allow_shared(*call, chosen);
}

paro_status paro_forward(const paro_attention* call, const paro_launch* launch, void* workspace,
                         size_t workspace_bytes) {
  Chosen chosen{};
  if (const paro_status status = paro::kernels::choose(call, launch, true, &chosen);
      status != PARO_OK) {
    return status;
  }
  const auto cut = paro::kernels::cut_workspace(*call, chosen.shape, chosen.units, workspace);
  if (const paro_status status =
          paro::kernels::check_memory(*call, workspace, workspace_bytes, cut.bytes);
      status != PARO_OK) {
    return status;
  }
  if (const paro_status status = paro::kernels::allow_shared(*call, chosen); status != PARO_OK) {
    return status;
  }
  auto geometry = paro::kernels::geometry_of(*call, chosen.shape);
  const int32_t units = call->batch * call->kv_heads;
  for (int32_t first = 0; first < units; first += chosen.units) {
    geometry.first_unit = first;
    geometry.units = std::min(chosen.units, units - first);
    const auto stream = static_cast<paro::Stream>(launch->stream);
    if (paro::kernels::launch_group(*call, chosen, geometry, cut, stream) !=
        paro::LaunchStatus::ok) {
      return fail(PARO_RUNTIME_ERROR, "launch: %s", paro::last_launch_message());
    }
  }
  return PARO_OK;
}

paro_status paro_measure_peak(const paro_launch* launch, double* flops_per_second) {
  if (const paro_status status = paro::check_launch(launch); status != PARO_OK) return status;
  if (flops_per_second == nullptr) {
    return fail(PARO_INVALID_ARGUMENT, "flops_per_second: expected a pointer, got NULL");
  }
  return paro::kernels::measure_peak(launch->stream, flops_per_second);
}

}  // extern "C"
