// The producer's second walk: gathers the groups of the query block's fine key blocks, 16 at a time,
// into steps of 64 keys. They lie in a slot as a key block of 64 keys does (common/fine_walk.cuh).
//
// cp.async copies them. Its bytes do not count on an mbarrier, so the producer waits for a step's
// copies after it has started the next step's, and then arrives. The consumers free a slot after
// the step that follows it, so a ring of three slots is enough for that.
#pragma once

#include "kernels/sparse_attention/common/fine_walk.cuh"
#include "kernels/sparse_attention/sm90/produce.cuh"
#include "ptx/cp_async.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::sm90 {

constexpr int group_quads = fine_step_groups / 4;

// Starts the copies of a step's groups. A lane copies from group lane % 4 of each quad: a warp
// reads whole sectors, and its 4-byte stores meet all banks.
template <class V>
DEVICE_FN void copy_groups(const FineGroups& fine, int64_t first_group, int block,
                           uint32_t key_tile, uint32_t value_tile) {
  constexpr int64_t group_bytes = fine_summaries * V::head_dim;
  constexpr uint32_t rows_at_once = 128 / V::head_dim;  // of keys; and eight channels of values
  constexpr uint32_t swizzle_rows = 8;                   // its period
  const uint32_t in_quad = threadIdx.x % 4, part = threadIdx.x % 32 / 4;
#pragma unroll 1
  for (uint32_t quad = 0; quad < group_quads; quad++) {
    const int from = __shfl_sync(~0u, block, static_cast<int>(quad * 4 + in_quad));
    const int64_t offset = (first_group + from) * group_bytes;
    const uint32_t chunk = part / rows_at_once;
    const uint8_t* key = fine.key + offset + part % rows_at_once * V::head_dim + chunk * 16;
#pragma unroll
    for (uint32_t first = 0; first < fine_summaries; first += rows_at_once) {
      const uint32_t row = fine_row(quad * 4 + in_quad, first + part % rows_at_once);
      ptx::cp_async_16(key_tile + swizzled_offset<V::head_dim>(row, chunk),
                       key + first * V::head_dim);
    }
    const uint8_t* value = fine.value + offset + part * 4;
    const uint32_t to =
        value_tile + swizzled_offset<value_tile_keys>(part, quad) + in_quad * 4;
#pragma unroll
    for (uint32_t first = 0; first < V::head_dim; first += swizzle_rows) {
      ptx::cp_async_small<4>(to + first * value_tile_keys, value + first * 4);
    }
  }
}

// Starts the copies of the scales of the step's groups and writes what its keys stand for. A lane
// does so for group lane % 16, which is `block`.
DEVICE_FN void write_fine_extras(const FineGroups& fine, int64_t first_group, int block,
                                 bool exists, const Extent& e, FineExtras& extras) {
  const uint32_t lane = threadIdx.x % 32, number = lane % fine_step_groups;
  if (lane < fine_step_groups) {
    const int64_t group = first_group + block;
    ptx::cp_async_small<4>(ptx::shared_u32(&extras.key_scale[number % 4][number / 4]),
                           fine.key_scale + group);
    ptx::cp_async_small<4>(ptx::shared_u32(&extras.log2_share[number % 4][number / 4]),
                           fine.value_scale + group);
  }
  const int run = e.span_keys() / fine_summaries;
  const uint32_t pair = lane / fine_step_groups * 2;  // of the group's summaries
  float weight[2];
#pragma unroll
  for (uint32_t i = 0; i < 2; i++) {
    const int first = (block * fine_summaries + static_cast<int>(pair + i)) * run;
    const int count = exists ? min(max(e.length - first, 0), run) : 0;
    weight[i] = count == 0 ? lowest_logit : ptx::log2_approx(static_cast<float>(count));
  }
  *reinterpret_cast<float2*>(extras.weight + fine_row(number, pair)) = {weight[0], weight[1]};
}

// A group whose share is smaller has codes of P that are 0 anyway.
constexpr float least_share = 0x1p-40f;

// The value scales, which a lane's own copy has brought, become shares.
DEVICE_FN void write_shares(FineExtras& extras) {
  const uint32_t lane = threadIdx.x % 32, number = lane % fine_step_groups;
  float& place = extras.log2_share[number % 4][number / 4];
  const float scale = lane < fine_step_groups ? place : 0.0f;
  float largest = scale;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    largest = ptx::maximum_or_nan(largest, __shfl_xor_sync(~0u, largest, distance));
  }
  const float quotient = __fdividef(scale, largest);
  const float share = largest == 0.0f || quotient < least_share ? least_share : quotient;
  if (lane < fine_step_groups) {
    place = ptx::log2_approx(share);
    extras.inverse_share[number % 4][number / 4] = __fdividef(1.0f, share);
  }
  if (lane == 0) extras.value_scale = largest;
}

// By one warp, after all spans. `first_group`: index of the unit's first group in the workspace.
// Where the tile has two query blocks, each gets steps of its own, in turns: the codes of P depend
// on which groups form a step. The walk of the second is that of lanes 16 and up.
template <class V>
DEVICE_FN void produce_fine(const FineGroups& fine, int64_t first_group,
                            const TileMask<V::query_blocks>& mask, const Extent& extent,
                            const Ring<V>& ring, RingPlace<V>& at) {
  const int lane = static_cast<int>(threadIdx.x % 32), number = lane % fine_step_groups;
  const int walked = lane / fine_step_groups % V::query_blocks;  // the query block of the walk
  int left[V::query_blocks];
  int longest = 0;
#pragma unroll
  for (int i = 0; i < V::query_blocks; i++) {
    left[i] = count_fine_blocks(row_of(mask, i), extent);
    longest = max(longest, left[i]);
  }
  if (longest == 0) return;
  const SpanMask row = row_of(mask, walked);
  FineWalk walk(row, extent, number);
  int landing = -1;  // slot of the step whose copies may be under way
  const auto finish_landing = [&] {
    write_shares(ring.fine_extras(landing));
    ptx::fence_proxy_async();
    __syncwarp();  // sync: every lane's copies have landed, and its extras are written
    if (lane == 0) ptx::mbarrier_arrive(ring.full(landing));
  };
#pragma unroll 1
  for (int done = 0; done < longest; done += fine_step_groups) {
#pragma unroll 1
    for (int i = 0; i < V::query_blocks; i++) {
      const int groups = (V::query_blocks > 1 && i > 0 ? left[V::query_blocks - 1] : left[0]) - done;
      if (groups <= 0) continue;
      // An absent group has the data of a listed one, so that what is not finite there reaches the
      // rows anyway.
      const bool exists = number < groups;
      const int block = __shfl_sync(~0u, walk.block(), i * fine_step_groups + (exists ? number : 0));
      ring.wait_empty(at);
      copy_groups<V>(fine, first_group, block, ring.key_tile(at.slot), ring.value_tile(at.slot));
      write_fine_extras(fine, first_group, block, exists, extent, ring.fine_extras(at.slot));
      ptx::cp_async_commit();
      if (lane == 0) {
        ring.extras(at.slot).kind = StepKind::fine;
        ring.extras(at.slot).attending = 1u << i;
      }
      if (landing >= 0) {
        ptx::cp_async_wait<1>();
        finish_landing();
      }
      landing = at.slot;
      at.advance();
    }
    walk.advance(fine_step_groups);
  }
  ptx::cp_async_wait_all();
  finish_landing();
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
