// A call of the C ABI that owns its tensors, for the programs of this directory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "paro/paro_c.h"

struct CallOwner {
  paro_attention call{};
  std::vector<float> query, key, value, affine, output;
  std::vector<int32_t> token_order, head_order, block_mask, tile_order, mask_bin, key_length;
  std::vector<int32_t> fine_mask, corrected_heads, dynamic_blocks, rotation;
};

inline int32_t blocks(int32_t tokens, int32_t block) { return (tokens + block - 1) / block; }

// Which blocks a call's masks list: each key block with this probability.
struct Density {
  double exact;
  double fine = 0.5;  // if the call has fine summaries; counts blocks that are exact as well
};

// Creates the tensors of a call whose sizes and attributes are set. Values, orders and masks are
// random. All tokens exist. What the attributes use of version 2: every head is corrected, one block
// is chosen for each query block, and every other key/value head is rotated.
inline std::unique_ptr<CallOwner> make_call(const paro_attention& sizes, Density density,
                                            std::mt19937& random) {
  auto owner = std::make_unique<CallOwner>();
  paro_attention& call = owner->call;
  call = sizes;
  call.struct_size = sizeof call;
  call.dtype = PARO_FLOAT32;
  const auto normal = [&](std::vector<float>& x, int64_t count) {
    x.resize(static_cast<size_t>(count));
    std::normal_distribution<float> draw(0.2f, 1.0f);
    for (float& element : x) element = draw(random);
  };
  const int64_t rows = int64_t{call.batch} * call.tokens;
  normal(owner->query, rows * call.heads * call.head_dim);
  normal(owner->key, rows * call.kv_heads * call.head_dim);
  normal(owner->value, rows * call.kv_heads * call.head_dim);
  owner->output.assign(owner->query.size(), NAN);
  owner->affine.assign(static_cast<size_t>(4 * call.kv_heads * call.head_dim), 0.75f);

  const auto permutations = [&](std::vector<int32_t>& x, int32_t count, int32_t length) {
    for (int32_t row = 0; row < count; ++row) {
      std::vector<int32_t> one(static_cast<size_t>(length));
      std::iota(one.begin(), one.end(), 0);
      std::shuffle(one.begin(), one.end(), random);
      x.insert(x.end(), one.begin(), one.end());
    }
  };
  const int32_t query_blocks = blocks(call.tokens, call.block_q);
  const int32_t key_blocks = blocks(call.tokens, call.block_k);
  const int32_t words = blocks(key_blocks, 32);
  permutations(owner->token_order, call.orders, call.tokens);
  permutations(owner->tile_order, call.bins, call.heads * query_blocks);
  owner->head_order.assign(static_cast<size_t>(call.heads), call.orders - 1);
  const int64_t mask_rows = int64_t{call.bins} * call.heads * query_blocks;
  const auto draw_mask = [&](std::vector<int32_t>& mask, double probability) {
    mask.assign(static_cast<size_t>(mask_rows * words), 0);
    std::bernoulli_distribution listed(probability);
    for (int64_t row = 0; row < mask_rows; ++row) {
      for (int32_t block = 0; block < key_blocks; ++block) {
        const int32_t bit = listed(random) ? static_cast<int32_t>(1u << (block % 32)) : 0;
        mask[static_cast<size_t>(row * words + block / 32)] |= bit;
      }
    }
  };
  draw_mask(owner->block_mask, density.exact);
  if (call.fine_summaries) draw_mask(owner->fine_mask, density.fine);
  if (call.mean_correction) owner->corrected_heads.assign(static_cast<size_t>(call.heads), 1);
  if (call.routing) {
    owner->dynamic_blocks.assign(static_cast<size_t>(call.bins * call.heads), 1);
  }
  if (call.smoothing) {
    const int64_t signs = int64_t{call.kv_heads} * call.head_dim;
    for (int64_t i = 0; i < signs; ++i) {
      const bool rotated = i / call.head_dim % 2 == 0;
      owner->rotation.push_back(!rotated ? 0 : random() % 2 ? 1 : -1);
    }
  }
  owner->mask_bin.assign(static_cast<size_t>(call.batch), 0);
  owner->key_length.assign(static_cast<size_t>(call.batch), call.tokens);
  call.query = owner->query.data();
  call.key = owner->key.data();
  call.value = owner->value.data();
  call.token_order = owner->token_order.data();
  call.head_order = owner->head_order.data();
  call.block_mask = owner->block_mask.data();
  call.tile_order = owner->tile_order.data();
  call.channel_affine = owner->affine.data();
  call.mask_bin = owner->mask_bin.data();
  call.key_length = owner->key_length.data();
  if (call.fine_summaries) call.fine_mask = owner->fine_mask.data();
  if (call.mean_correction) call.corrected_heads = owner->corrected_heads.data();
  if (call.routing) call.dynamic_blocks = owner->dynamic_blocks.data();
  if (call.smoothing) call.rotation = owner->rotation.data();
  call.output = owner->output.data();
  return owner;
}

inline paro_launch on_threads(int32_t threads) {
  paro_launch launch{};
  launch.struct_size = sizeof launch;
  launch.threads = threads;
  return launch;
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Workspace = std::unique_ptr<void, Free>;

// Exactly the requested size, so that a sanitizer reports any access past the end.
inline Workspace make_workspace(size_t bytes) { return Workspace(std::aligned_alloc(256, bytes)); }
