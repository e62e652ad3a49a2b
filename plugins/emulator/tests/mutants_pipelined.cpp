// Mutants of pipelined_attention.cuh.
#include "emulator/tests/check.h"
#include "emulator/tests/mutants.h"
#include "emulator/tests/pipelined_attention.cuh"

using namespace paro;

namespace mutants {
namespace {

using namespace pipelined;

template <Bug bug>
Outcome run() {
  // 7 key blocks, the last with 19 keys; 2 query blocks, the last with 37 rows.
  static Problem problem(6 * block_keys + 19, 64 + 37, {6, 0, 3, 5, 2, 1});
  problem.clear();
  const Parameters parameters{problem.query.data(),
                              problem.key.data(),
                              problem.value_transposed.data(),
                              problem.blocks.data(),
                              problem.row_order.data(),
                              problem.output.data(),
                              problem.row_sum.data(),
                              static_cast<int>(problem.blocks.size()),
                              problem.tokens,
                              problem.query_rows};
  Outcome outcome;
  outcome.diagnosis =
      emulator::try_launch(pipelined_attention<bug>, {2, threads, sizeof(SharedTiles)}, parameters);
  outcome.correct = !outcome.diagnosis && problem.is_correct();
  return outcome;
}

}  // namespace

std::vector<Mutant> pipelined_mutants() {
  const char* kernel = "pipelined";
  return {
      {kernel, "none", run<Bug::none>},
      {kernel, "missing __syncthreads", run<Bug::missing_barrier>},
      {kernel, "missing cp.async wait", run<Bug::missing_wait>},
      {kernel, "wait group off by one", run<Bug::wait_off_by_one>},
      {kernel, "missing commit", run<Bug::missing_commit>},
      {kernel, "stale slot", run<Bug::stale_slot>},
      {kernel, "wrong swizzle", run<Bug::wrong_swizzle>},
      {kernel, "misaligned ldmatrix", run<Bug::bank_offset>},
      {kernel, "tail off by one", run<Bug::tail_off_by_one>},
      {kernel, "wrong scatter", run<Bug::wrong_scatter>},
      {kernel, "divergent shuffle", run<Bug::divergent_shuffle>},
      {kernel, "half of the keys not loaded", run<Bug::missing_fill>},
  };
}

}  // namespace mutants
