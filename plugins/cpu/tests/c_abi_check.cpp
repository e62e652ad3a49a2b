// Calls the C ABI of the CPU backend with random shapes, for runs under sanitizers. Results must be
// finite and equal on one thread and on three, and misuse must return an error status.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "call_owner.h"

namespace {

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s (last error: %s)\n", what, paro_last_error());
}

std::unique_ptr<CallOwner> random_call(std::mt19937& random, int32_t qk_bits, int32_t pv_bits,
                                       int32_t pooled) {
  const auto pick = [&](int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random);
  };
  paro_attention sizes{};
  sizes.batch = pick(1, 2);
  sizes.tokens = pick(1, 300);
  sizes.kv_heads = pick(1, 2);
  sizes.heads = sizes.kv_heads * pick(1, 2);
  sizes.head_dim = pick(0, 1) ? 64 : 128;
  sizes.orders = pick(1, 2);
  sizes.bins = pick(1, 2);
  sizes.block_q = pick(0, 1) ? 64 : 128;
  sizes.block_k = pick(0, 1) ? 64 : 128;
  sizes.qk_bits = qk_bits;
  sizes.pv_bits = pv_bits;
  sizes.pool_dropped = pooled;
  sizes.fine_summaries = pooled != 0 && pick(0, 1);
  sizes.mean_correction = pick(0, 1);
  sizes.routing = pick(0, 1);
  sizes.smoothing = qk_bits == 4 && pick(0, 1);
  auto owner = make_call(sizes, {.exact = 0.5}, random);
  for (int32_t& bin : owner->mask_bin) bin = pick(-3, 9);
  for (int32_t& length : owner->key_length) length = pick(0, sizes.tokens);
  for (int32_t& flag : owner->corrected_heads) flag = pick(0, 1);
  // Counts out of their range are clamped.
  for (int32_t& count : owner->dynamic_blocks) count = pick(-1, 6);
  return owner;
}

paro_status forward(const paro_attention& call, int32_t threads) {
  const paro_launch launch = on_threads(threads);
  size_t bytes = 0;
  if (const paro_status status = paro_workspace_bytes(&call, &launch, &bytes); status != PARO_OK) {
    return status;
  }
  const Workspace workspace = make_workspace(bytes);
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

// Inputs with NaN and infinity. The results need not be numbers, but they must be the same on any
// number of threads, and no arithmetic may be undefined behaviour.
void check_non_finite_values(std::mt19937& random) {
  constexpr float kHuge = std::numeric_limits<float>::max();
  constexpr float kPoison[] = {NAN, INFINITY, -INFINITY, kHuge, -kHuge, 1e-42f};
  for (const int32_t bits : {16, 8, 4}) {
    for (const float poison : kPoison) {
      const auto owner = random_call(random, bits, bits, 1);
      for (std::vector<float>* tensor : {&owner->query, &owner->key, &owner->value}) {
        (*tensor)[random() % tensor->size()] = poison;
      }
      expect(forward(owner->call, 3) == PARO_OK, "forward of non-finite values");
      const std::vector<float> three = owner->output;
      expect(forward(owner->call, 1) == PARO_OK, "forward of non-finite values on one thread");
      expect(std::memcmp(three.data(), owner->output.data(), three.size() * sizeof(float)) == 0,
             "equal results of non-finite values on one thread and on three");
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
  expect_refusal(random, "output", PARO_INVALID_ARGUMENT,
                 [](auto& c) { c.output = static_cast<char*>(c.output) + 1; });
  expect_refusal(random, "struct_size", PARO_INVALID_ARGUMENT, [](auto& c) { c.struct_size = 8; });
  expect_refusal(random, "batch", PARO_INVALID_ARGUMENT, [](auto& c) { c.batch = 0; });
  expect_refusal(random, "tokens", PARO_INVALID_ARGUMENT, [](auto& c) { c.tokens = INT32_MAX; });
  expect_refusal(random, "heads", PARO_INVALID_ARGUMENT, [](auto& c) { c.heads = -1; });
  expect_refusal(random, "head_dim", PARO_UNSUPPORTED, [](auto& c) { c.head_dim = 80; });
  expect_refusal(random, "block_q", PARO_INVALID_ARGUMENT, [](auto& c) { c.block_q = 32; });
  expect_refusal(random, "pv_bits", PARO_INVALID_ARGUMENT, [](auto& c) { c.pv_bits = 3; });
  expect_refusal(random, "dtype", PARO_INVALID_ARGUMENT, [](auto& c) { c.dtype = 9; });
  expect_refusal(random, "scale", PARO_INVALID_ARGUMENT, [](auto& c) { c.scale = NAN; });
  expect_refusal(random, "routing", PARO_INVALID_ARGUMENT, [](auto& c) { c.routing = 2; });
  expect_refusal(random, "fine_summaries", PARO_INVALID_ARGUMENT, [](auto& c) {
    c.fine_summaries = 1;
    c.pool_dropped = 0;
  });
  expect_refusal(random, "fine_mask", PARO_INVALID_ARGUMENT, [](auto& c) {
    c.fine_summaries = 1;
    c.fine_mask = nullptr;
  });
  expect_refusal(random, "corrected_heads", PARO_INVALID_ARGUMENT, [](auto& c) {
    c.mean_correction = 1;
    c.corrected_heads = nullptr;
  });
  expect_refusal(random, "dynamic_blocks", PARO_INVALID_ARGUMENT, [](auto& c) {
    c.routing = 1;
    c.dynamic_blocks = nullptr;
  });
  expect_refusal(random, "smoothing", PARO_INVALID_ARGUMENT, [](auto& c) { c.smoothing = 1; });
  expect_refusal(random, "rotation", PARO_INVALID_ARGUMENT, [](auto& c) {
    c.qk_bits = 4;
    c.smoothing = 1;
    c.rotation = nullptr;
  });

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
  check_non_finite_values(random);
  check_misuse(random);
  char kernels[128] = "";
  const paro_launch launch = on_threads(1);
  paro_describe(&random_call(random, 8, 8, 1)->call, &launch, kernels, sizeof kernels);
  std::printf("%s, %s: %d failed\n", paro_library_name(), kernels, failures);
  return failures == 0 ? 0 : 1;
}
