// Mutants of specialised_attention.cuh.
#include "emulator/tests/check.h"
#include "emulator/tests/mutants.h"
#include "emulator/tests/specialised_attention.cuh"

using namespace paro;

namespace mutants {
namespace {

using namespace specialised;

TensorMap map_of(const std::vector<int8_t>& matrix, uint64_t rows, Swizzle swizzle) {
  TensorMap map{};
  CHECK(encode_tensor_map({matrix.data(), {64, rows}, 64, {64, 64}, 1, swizzle}, &map) ==
        TensorMapStatus::ok);
  return map;
}

// std::vector gives the 16-byte alignment that TMA needs on every platform here.
template <Bug bug>
Outcome run() {
  static Problem problem(6 * block_keys + 19, 64 + 37, {6, 0, 3, 5, 2, 1});
  problem.clear();
  const Parameters parameters{problem.blocks.data(),
                              problem.row_order.data(),
                              problem.output.data(),
                              problem.row_sum.data(),
                              static_cast<int>(problem.blocks.size()),
                              problem.tokens,
                              problem.query_rows};
  const auto rows = static_cast<uint64_t>(problem.query_rows);
  const auto keys = static_cast<uint64_t>(problem.tokens);
  const TensorMap query = map_of(problem.query, rows, Swizzle::b64);
  TensorMap key = map_of(problem.key, keys, Swizzle::b64);
  if constexpr (bug == Bug::wrong_map_swizzle) key = map_of(problem.key, keys, Swizzle::none);
  const TensorMap value =
      map_of(problem.value_transposed, problem.value_transposed.size() / block_keys, Swizzle::b64);
  Outcome outcome;
  outcome.diagnosis = emulator::try_launch(
      specialised_attention<bug>, {2, threads, sizeof(SharedTiles)}, query, key, value, parameters);
  outcome.correct = !outcome.diagnosis && problem.is_correct();
  return outcome;
}

}  // namespace

std::vector<Mutant> specialised_mutants() {
  const char* kernel = "specialised";
  return {
      {kernel, "none", run<Bug::none>},
      {kernel, "wrong full parity", run<Bug::wrong_full_parity>},
      {kernel, "wrong empty parity", run<Bug::wrong_empty_parity>},
      {kernel, "missing empty wait", run<Bug::no_empty_wait>},
      {kernel, "stale stage", run<Bug::stale_stage>},
      {kernel, "stage released early", run<Bug::early_release>},
      {kernel, "missing wgmma wait", run<Bug::missing_wgmma_wait>},
      {kernel, "missing wgmma fence", run<Bug::missing_wgmma_fence>},
      {kernel, "missing expect_tx", run<Bug::missing_expect>},
      {kernel, "expect_tx too small", run<Bug::short_expect>},
      {kernel, "too few arrivals", run<Bug::too_few_arrivals>},
      {kernel, "too many arrivals", run<Bug::too_many_arrivals>},
      {kernel, "wrong descriptor swizzle", run<Bug::wrong_swizzle>},
      {kernel, "wrong tensor map swizzle", run<Bug::wrong_map_swizzle>},
      {kernel, "missing mbarrier fence", run<Bug::missing_init_fence>},
      {kernel, "barriers used before init", run<Bug::missing_init_barrier>},
      {kernel, "tail off by one", run<Bug::tail_off_by_one>},
  };
}

}  // namespace mutants
