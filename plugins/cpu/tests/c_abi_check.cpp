// Drives the C ABI of the CPU backend over random shapes, for runs under sanitizers: results must
// be finite and equal on one thread and on three, and misuse must come back as a status.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "paro/paro_c.h"

namespace {

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s (last error: %s)\n", what, paro_last_error());
}

// Owns the tensors of one call.
struct Call {
  paro_attention call{};
  std::vector<float> query, key, value, affine, output;
  std::vector<int32_t> token_order, head_order, block_mask, tile_order, mask_bin, key_length;
};

int32_t blocks(int32_t tokens, int32_t block) { return (tokens + block - 1) / block; }

std::unique_ptr<Call> random_call(std::mt19937& random, int32_t qk_bits, int32_t pv_bits,
                                  int32_t pooled) {
  const auto pick = [&](int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random);
  };
  auto owner = std::make_unique<Call>();
  paro_attention& call = owner->call;
  call.struct_size = sizeof call;
  call.batch = pick(1, 2);
  call.tokens = pick(1, 300);
  call.kv_heads = pick(1, 2);
  call.heads = call.kv_heads * pick(1, 2);
  call.head_dim = pick(0, 1) ? 64 : 128;
  call.orders = pick(1, 2);
  call.bins = pick(1, 2);
  call.dtype = PARO_FLOAT32;
  call.block_q = pick(0, 1) ? 64 : 128;
  call.block_k = pick(0, 1) ? 64 : 128;
  call.qk_bits = qk_bits;
  call.pv_bits = pv_bits;
  call.pool_dropped = pooled;

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
  permutations(owner->token_order, call.orders, call.tokens);
  permutations(owner->tile_order, call.bins, call.heads * query_blocks);
  owner->head_order.assign(static_cast<size_t>(call.heads), call.orders - 1);
  for (int64_t i = 0; i < int64_t{call.bins} * call.heads * query_blocks; ++i) {
    owner->block_mask.push_back(pick(0, (1 << key_blocks) - 1));
  }
  for (int32_t b = 0; b < call.batch; ++b) {
    owner->mask_bin.push_back(pick(-3, 9));
    owner->key_length.push_back(pick(0, call.tokens));
  }
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
  call.output = owner->output.data();
  return owner;
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

paro_launch on_threads(int32_t threads) {
  paro_launch launch{};
  launch.struct_size = sizeof launch;
  launch.threads = threads;
  return launch;
}

paro_status forward(const paro_attention& call, int32_t threads) {
  const paro_launch launch = on_threads(threads);
  size_t bytes = 0;
  if (const paro_status status = paro_workspace_bytes(&call, &launch, &bytes); status != PARO_OK) {
    return status;
  }
  // Exactly as much as asked for, so that a sanitizer sees one byte too many.
  const std::unique_ptr<void, Free> workspace(std::aligned_alloc(256, bytes));
  return paro_forward(&call, &launch, workspace.get(), bytes);
}

void check_random_calls(std::mt19937& random) {
  for (const int32_t qk_bits : {16, 8, 4}) {
    for (const int32_t pv_bits : {16, 8, 4}) {
      for (const int32_t pooled : {0, 1}) {
        const auto owner = random_call(random, qk_bits, pv_bits, pooled);
        expect(forward(owner->call, 3) == PARO_OK, "forward on three threads");
        const std::vector<float> three = owner->output;
        owner->output.assign(three.size(), NAN);
        expect(forward(owner->call, 1) == PARO_OK, "forward on one thread");
        expect(std::memcmp(three.data(), owner->output.data(), three.size() * sizeof(float)) == 0,
               "equal results on one thread and on three");
        bool finite = true;
        for (const float x : three) finite &= std::isfinite(x);
        expect(finite, "every output written, and finite");
      }
    }
  }
}

template <class Change>
void expect_refusal(std::mt19937& random, const char* name, paro_status status, Change change) {
  const auto owner = random_call(random, 8, 8, 1);
  change(owner->call);
  const paro_status answer = forward(owner->call, 1);
  expect(answer == status, name);
  expect(std::strstr(paro_last_error(), name) != nullptr, "the message names the argument");
}

void check_misuse(std::mt19937& random) {
  expect_refusal(random, "query", PARO_INVALID_ARGUMENT, [](auto& c) { c.query = nullptr; });
  expect_refusal(random, "output", PARO_INVALID_ARGUMENT, [](auto& c) {
    c.output = static_cast<char*>(c.output) + 1;
  });
  expect_refusal(random, "struct_size", PARO_INVALID_ARGUMENT, [](auto& c) { c.struct_size = 8; });
  expect_refusal(random, "batch", PARO_INVALID_ARGUMENT, [](auto& c) { c.batch = 0; });
  expect_refusal(random, "tokens", PARO_INVALID_ARGUMENT, [](auto& c) { c.tokens = INT32_MAX; });
  expect_refusal(random, "heads", PARO_INVALID_ARGUMENT, [](auto& c) { c.heads = -1; });
  expect_refusal(random, "head_dim", PARO_UNSUPPORTED, [](auto& c) { c.head_dim = 80; });
  expect_refusal(random, "block_q", PARO_INVALID_ARGUMENT, [](auto& c) { c.block_q = 32; });
  expect_refusal(random, "pv_bits", PARO_INVALID_ARGUMENT, [](auto& c) { c.pv_bits = 3; });
  expect_refusal(random, "dtype", PARO_INVALID_ARGUMENT, [](auto& c) { c.dtype = 9; });
  expect_refusal(random, "scale", PARO_INVALID_ARGUMENT, [](auto& c) { c.scale = NAN; });

  const auto owner = random_call(random, 8, 8, 1);
  const paro_launch launch = on_threads(1);
  expect(paro_forward(nullptr, &launch, nullptr, 0) == PARO_INVALID_ARGUMENT, "a null call");
  expect(paro_forward(&owner->call, nullptr, nullptr, 0) == PARO_INVALID_ARGUMENT, "a null launch");
  expect(paro_forward(&owner->call, &launch, nullptr, 0) == PARO_WORKSPACE_TOO_SMALL,
         "no workspace");
  char text[8];
  expect(paro_describe(&owner->call, &launch, text, sizeof text) == PARO_OK, "a cut description");
  expect(std::strlen(text) < sizeof text, "its terminating zero");
}

}  // namespace

int main(int argc, char** argv) {
  std::mt19937 random(argc > 1 ? static_cast<unsigned>(std::stoul(argv[1])) : 1);
  check_random_calls(random);
  check_misuse(random);
  std::printf("%s: %d failed\n", paro_library_name(), failures);
  return failures == 0 ? 0 : 1;
}
