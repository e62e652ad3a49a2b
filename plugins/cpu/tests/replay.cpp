// Runs calls from a file. An emulated processor can run this program without Python:
//
//   paro_cpu_replay CALLS OUTPUTS THREADS
//
// CALLS holds, for each call, its paro_attention (the pointers in it are ignored) and then the
// tensors that it uses in the struct's order. OUTPUTS receives the outputs, one after another.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "call_owner.h"

namespace {

using Bytes = std::vector<char>;

struct Tensors {
  Bytes query, key, value, token_order, head_order, block_mask, tile_order, affine, mask_bin,
      key_length, fine_mask, corrected_heads, dynamic_blocks, rotation, output;
};

// The sizes of the call's tensors, and memory for them.
Tensors make_tensors(paro_attention& call) {
  const auto bytes = [](int64_t elements, int64_t element) {
    return Bytes(static_cast<size_t>(elements * element));
  };
  const int64_t element = call.dtype == PARO_FLOAT32 ? 4 : 2;
  const int64_t rows = int64_t{call.batch} * call.tokens;
  const int64_t query_blocks = blocks(call.tokens, call.block_q);
  const int64_t words = blocks(blocks(call.tokens, call.block_k), 32);
  const int64_t tiles = int64_t{call.bins} * call.heads * query_blocks;
  Tensors t{bytes(rows * call.heads * call.head_dim, element),
            bytes(rows * call.kv_heads * call.head_dim, element),
            bytes(rows * call.kv_heads * call.head_dim, element),
            bytes(int64_t{call.orders} * call.tokens, 4),
            bytes(call.heads, 4),
            bytes(tiles * words, 4),
            bytes(tiles, 4),
            bytes(int64_t{4} * call.kv_heads * call.head_dim, 4),
            bytes(call.batch, 4),
            bytes(call.batch, 4),
            bytes(call.fine_summaries ? tiles * words : 0, 4),
            bytes(call.mean_correction ? call.heads : 0, 4),
            bytes(call.routing ? int64_t{call.bins} * call.heads : 0, 4),
            bytes(call.smoothing ? int64_t{call.kv_heads} * call.head_dim : 0, 4),
            bytes(rows * call.heads * call.head_dim, element)};
  call.query = t.query.data();
  call.key = t.key.data();
  call.value = t.value.data();
  call.token_order = reinterpret_cast<int32_t*>(t.token_order.data());
  call.head_order = reinterpret_cast<int32_t*>(t.head_order.data());
  call.block_mask = reinterpret_cast<int32_t*>(t.block_mask.data());
  call.tile_order = reinterpret_cast<int32_t*>(t.tile_order.data());
  call.channel_affine = reinterpret_cast<float*>(t.affine.data());
  call.mask_bin = reinterpret_cast<int32_t*>(t.mask_bin.data());
  call.key_length = reinterpret_cast<int32_t*>(t.key_length.data());
  call.fine_mask = reinterpret_cast<int32_t*>(t.fine_mask.data());
  call.corrected_heads = reinterpret_cast<int32_t*>(t.corrected_heads.data());
  call.dynamic_blocks = reinterpret_cast<int32_t*>(t.dynamic_blocks.data());
  call.rotation = reinterpret_cast<int32_t*>(t.rotation.data());
  call.output = t.output.data();
  return t;
}

bool read(std::istream& file, Bytes& bytes) {
  return static_cast<bool>(file.read(bytes.data(), static_cast<std::streamsize>(bytes.size())));
}

bool read_tensors(std::istream& file, Tensors& t) {
  for (Bytes* tensor : {&t.query, &t.key, &t.value, &t.token_order, &t.head_order, &t.block_mask,
                        &t.tile_order, &t.affine, &t.mask_bin, &t.key_length, &t.fine_mask,
                        &t.corrected_heads, &t.dynamic_blocks, &t.rotation}) {
    if (!read(file, *tensor)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s CALLS OUTPUTS THREADS\n", argv[0]);
    return 2;
  }
  std::ifstream calls(argv[1], std::ios::binary);
  std::ofstream outputs(argv[2], std::ios::binary);
  const paro_launch launch = on_threads(std::atoi(argv[3]));
  int count = 0;
  for (Bytes header(sizeof(paro_attention)); read(calls, header); ++count) {
    paro_attention call;
    std::copy(header.begin(), header.end(), reinterpret_cast<char*>(&call));
    Tensors tensors = make_tensors(call);
    size_t bytes = 0;
    if (!read_tensors(calls, tensors) || paro_workspace_bytes(&call, &launch, &bytes) != PARO_OK) {
      std::fprintf(stderr, "call %d: %s\n", count, paro_last_error());
      return 1;
    }
    const Workspace workspace = make_workspace(bytes);
    if (paro_forward(&call, &launch, workspace.get(), bytes) != PARO_OK) {
      std::fprintf(stderr, "call %d: %s\n", count, paro_last_error());
      return 1;
    }
    outputs.write(tensors.output.data(), static_cast<std::streamsize>(tensors.output.size()));
  }
  std::printf("%d calls\n", count);
  return outputs.flush() ? 0 : 1;
}
