// The C ABI over the kernels. Emulated or on a GPU.
#include <algorithm>
#include <cstdio>

#include "common/check.h"
#include "common/error.h"
#include "common/status.h"
#include "kernels/choice.h"
#include "kernels/device.h"
#include "kernels/routing/launch.h"
#include "kernels/smoothing/launch.h"
#include "kernels/stages.h"
#include "kernels/summaries/launch.h"

namespace paro::kernels {
namespace {

using sparse_attention::Body;
using sparse_attention::Instructions;
using sparse_attention::Kernel;

constexpr size_t row_alignment = 16;  // rows are read and written by 16 bytes

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
