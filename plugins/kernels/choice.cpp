#include "kernels/choice.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>

#include "common/check.h"
#include "common/error.h"
#include "common/status.h"
#include "kernels/device.h"
#include "kernels/instructions.h"

namespace paro::kernels {
namespace {

using sparse_attention::Body;
using sparse_attention::Instructions;
using sparse_attention::Selection;

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

}  // namespace

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

}  // namespace paro::kernels
