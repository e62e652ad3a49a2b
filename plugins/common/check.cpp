#include "check.h"

#include <cmath>
#include <new>
#include <utility>
#include <vector>

#include "error.h"
#include "status.h"

namespace paro {
namespace {

int32_t blocks_of(int32_t tokens, int32_t block) { return (tokens + block - 1) / block; }

paro_status check_range(const char* name, int64_t value, int64_t lowest, int64_t highest) {
  if (value >= lowest && value <= highest) return PARO_OK;
  return fail(PARO_INVALID_ARGUMENT, "%s: expected a value in %lld..%lld, got %lld", name,
              static_cast<long long>(lowest), static_cast<long long>(highest),
              static_cast<long long>(value));
}

paro_status check_pointer(const char* name, const void* pointer, size_t alignment) {
  if (pointer == nullptr) return fail(PARO_INVALID_ARGUMENT, "%s: expected a pointer, got NULL", name);
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0) {
    return fail(PARO_INVALID_ARGUMENT, "%s: expected alignment to %zu bytes, got address %p", name,
                alignment, pointer);
  }
  return PARO_OK;
}

paro_status check_entries(const char* name, const int32_t* values, int64_t count, int32_t lowest,
                          int32_t highest) {
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] >= lowest && values[i] <= highest) continue;
    return fail(PARO_INVALID_ARGUMENT, "%s[%lld]: expected a value in %d..%d, got %d", name,
                static_cast<long long>(i), lowest, highest, values[i]);
  }
  return PARO_OK;
}

paro_status check_permutations(const char* name, const int32_t* rows, int32_t count,
                               int64_t length) {
  std::vector<bool> seen;
  for (int32_t row = 0; row < count; ++row) {
    seen.assign(static_cast<size_t>(length), false);
    for (int64_t i = 0; i < length; ++i) {
      const int32_t entry = rows[row * length + i];
      if (entry < 0 || entry >= length || seen[static_cast<size_t>(entry)]) {
        return fail(PARO_INVALID_ARGUMENT,
                    "%s: expected each row a permutation of 0..%lld, got %d at [%d, %lld]", name,
                    static_cast<long long>(length - 1), entry, row, static_cast<long long>(i));
      }
      seen[static_cast<size_t>(entry)] = true;
    }
  }
  return PARO_OK;
}

paro_status check_mask_padding(const char* name, const int32_t* mask, const paro_attention& call) {
  const Shape shape = Shape::of(call);
  const int32_t used = shape.key_blocks % PARO_MASK_WORD_BITS;
  if (used == 0) return PARO_OK;
  const uint32_t padding = ~uint32_t{0} << used;
  const int64_t rows = int64_t{call.bins} * call.heads * shape.query_blocks;
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t word = mask[(row + 1) * shape.mask_words - 1];
    if ((static_cast<uint32_t>(word) & padding) == 0) continue;
    return fail(PARO_INVALID_ARGUMENT,
                "%s: expected no bit set at or past key block %d, got one in row %lld", name,
                shape.key_blocks, static_cast<long long>(row));
  }
  return PARO_OK;
}

paro_status check_affine(const paro_attention& call) {
  const int64_t row_size = int64_t{call.kv_heads} * call.head_dim;
  for (int64_t i = 0; i < PARO_AFFINE_ROWS * row_size; ++i) {
    const float x = call.channel_affine[i];
    const int64_t row = i / row_size;
    const bool is_factor = row == PARO_EQUALIZER || row == PARO_VALUE_SCALE;
    if (std::isfinite(x) && (!is_factor || x > 0.0f)) continue;
    return fail(PARO_INVALID_ARGUMENT, "channel_affine: expected finite values%s, got %g in row %lld",
                is_factor ? " above 0" : "", static_cast<double>(x), static_cast<long long>(row));
  }
  return PARO_OK;
}

}  // namespace

Shape Shape::of(const paro_attention& call) noexcept {
  const int32_t key_blocks = blocks_of(call.tokens, call.block_k);
  return {.query_blocks = blocks_of(call.tokens, call.block_q),
          .key_blocks = key_blocks,
          .mask_words = blocks_of(key_blocks, PARO_MASK_WORD_BITS),
          .summary_blocks = call.pool_dropped ? blocks_of(key_blocks, call.block_k) : 0};
}

paro_status check_block_grid(const paro_attention& call) noexcept {
  PARO_RETURN_IF_ERROR(check_range("tokens", call.tokens, 1, PARO_MAX_TOKENS));
  for (const auto& [name, block] :
       {std::pair{"block_q", call.block_q}, std::pair{"block_k", call.block_k}}) {
    if (block != 64 && block != 128) {
      return fail(PARO_INVALID_ARGUMENT, "%s: expected 64 or 128, got %d", name, block);
    }
  }
  return PARO_OK;
}

paro_status check_shape(const paro_attention* call) noexcept {
  if (call == nullptr) return fail(PARO_INVALID_ARGUMENT, "call: expected a pointer, got NULL");
  if (call->struct_size != sizeof(paro_attention)) {
    return fail(PARO_INVALID_ARGUMENT, "call.struct_size: expected %zu, got %zu; rebuild the caller",
                sizeof(paro_attention), call->struct_size);
  }
  PARO_RETURN_IF_ERROR(check_range("batch", call->batch, 1, INT32_MAX));
  PARO_RETURN_IF_ERROR(check_block_grid(*call));
  PARO_RETURN_IF_ERROR(check_range("heads", call->heads, 1, 1 << 16));
  PARO_RETURN_IF_ERROR(check_range("kv_heads", call->kv_heads, 1, call->heads));
  PARO_RETURN_IF_ERROR(check_range("orders", call->orders, 1, INT32_MAX));
  PARO_RETURN_IF_ERROR(check_range("bins", call->bins, 1, INT32_MAX));
  PARO_RETURN_IF_ERROR(check_range("dtype", call->dtype, PARO_FLOAT16, PARO_FLOAT32));
  PARO_RETURN_IF_ERROR(check_range("pool_dropped", call->pool_dropped, 0, 1));
  PARO_RETURN_IF_ERROR(check_range("fine_summaries", call->fine_summaries, 0, 1));
  PARO_RETURN_IF_ERROR(check_range("mean_correction", call->mean_correction, 0, 1));
  PARO_RETURN_IF_ERROR(check_range("routing", call->routing, 0, 1));
  PARO_RETURN_IF_ERROR(check_range("smoothing", call->smoothing, 0, 1));
  if (call->fine_summaries != 0 && call->pool_dropped == 0) {
    return fail(PARO_INVALID_ARGUMENT, "fine_summaries: expected 0 where pool_dropped is 0, got %d",
                call->fine_summaries);
  }
  if (call->heads % call->kv_heads != 0) {
    return fail(PARO_INVALID_ARGUMENT, "kv_heads: expected a divisor of %d heads, got %d",
                call->heads, call->kv_heads);
  }
  if (call->head_dim != 64 && call->head_dim != 128) {
    return fail(PARO_UNSUPPORTED, "head_dim: expected 64 or 128, got %d", call->head_dim);
  }
  for (const auto& [name, bits] :
       {std::pair{"qk_bits", call->qk_bits}, std::pair{"pv_bits", call->pv_bits}}) {
    if (bits != 16 && bits != 8 && bits != 4) {
      return fail(PARO_INVALID_ARGUMENT, "%s: expected 16, 8 or 4, got %d", name, bits);
    }
  }
  if (call->smoothing != 0 && call->qk_bits != 4) {
    return fail(PARO_INVALID_ARGUMENT, "smoothing: expected 0 where qk_bits is not 4, got %d",
                call->smoothing);
  }
  if (!std::isfinite(call->scale) || call->scale < 0.0f) {
    return fail(PARO_INVALID_ARGUMENT, "scale: expected a finite factor above 0, or 0, got %g",
                static_cast<double>(call->scale));
  }
  return PARO_OK;
}

paro_status check_pointers(const paro_attention& call) noexcept {
  const size_t element = call.dtype == PARO_FLOAT32 ? 4 : 2;
  PARO_RETURN_IF_ERROR(check_pointer("query", call.query, element));
  PARO_RETURN_IF_ERROR(check_pointer("key", call.key, element));
  PARO_RETURN_IF_ERROR(check_pointer("value", call.value, element));
  PARO_RETURN_IF_ERROR(check_pointer("token_order", call.token_order, 4));
  PARO_RETURN_IF_ERROR(check_pointer("head_order", call.head_order, 4));
  PARO_RETURN_IF_ERROR(check_pointer("block_mask", call.block_mask, 4));
  PARO_RETURN_IF_ERROR(check_pointer("tile_order", call.tile_order, 4));
  PARO_RETURN_IF_ERROR(check_pointer("channel_affine", call.channel_affine, 4));
  PARO_RETURN_IF_ERROR(check_pointer("mask_bin", call.mask_bin, 4));
  PARO_RETURN_IF_ERROR(check_pointer("key_length", call.key_length, 4));
  if (call.fine_summaries) PARO_RETURN_IF_ERROR(check_pointer("fine_mask", call.fine_mask, 4));
  if (call.mean_correction) {
    PARO_RETURN_IF_ERROR(check_pointer("corrected_heads", call.corrected_heads, 4));
  }
  if (call.routing) PARO_RETURN_IF_ERROR(check_pointer("dynamic_blocks", call.dynamic_blocks, 4));
  if (call.smoothing) PARO_RETURN_IF_ERROR(check_pointer("rotation", call.rotation, 4));
  return check_pointer("output", call.output, element);
}

paro_status check_contents(const paro_attention& call) noexcept {
  try {
    const Shape shape = Shape::of(call);
    PARO_RETURN_IF_ERROR(check_permutations("token_order", call.token_order, call.orders, call.tokens));
    PARO_RETURN_IF_ERROR(check_permutations("tile_order", call.tile_order, call.bins,
                                int64_t{call.heads} * shape.query_blocks));
    PARO_RETURN_IF_ERROR(check_entries("head_order", call.head_order, call.heads, 0, call.orders - 1));
    PARO_RETURN_IF_ERROR(check_entries("key_length", call.key_length, call.batch, 0, call.tokens));
    const int32_t group = call.heads / call.kv_heads;
    for (int32_t head = 0; head < call.heads; ++head) {
      if (call.head_order[head] == call.head_order[head / group * group]) continue;
      return fail(PARO_INVALID_ARGUMENT,
                  "head_order: expected one order for all query heads that share a key/value head, "
                  "got %d and %d for head %d",
                  call.head_order[head / group * group], call.head_order[head], head);
    }
    PARO_RETURN_IF_ERROR(check_mask_padding("block_mask", call.block_mask, call));
    if (call.fine_summaries) {
      PARO_RETURN_IF_ERROR(check_mask_padding("fine_mask", call.fine_mask, call));
    }
    // Any value of corrected_heads and dynamic_blocks has a meaning, as of mask_bin.
    return check_affine(call);
  } catch (const std::bad_alloc&) {
    return fail(PARO_RUNTIME_ERROR, "memory: expected room to check the orders, got none");
  }
}

paro_status check_launch(const paro_launch* launch) noexcept {
  if (launch == nullptr) return fail(PARO_INVALID_ARGUMENT, "launch: expected a pointer, got NULL");
  if (launch->struct_size != sizeof(paro_launch)) {
    return fail(PARO_INVALID_ARGUMENT,
                "launch.struct_size: expected %zu, got %zu; rebuild the caller",
                sizeof(paro_launch), launch->struct_size);
  }
  PARO_RETURN_IF_ERROR(check_range("threads", launch->threads, 0, 4096));
  return check_range("sm", launch->sm, 0, 999);
}

}  // namespace paro
