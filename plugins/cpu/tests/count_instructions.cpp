// Counts the instructions that one call of paro_forward executes, on one thread, by stepping
// through it: exact, and on any instruction set, which Valgrind (no AVX-512) is not.
//
//   paro_cpu_count_instructions TOKENS HEAD_DIM BITS DENSITY  ->  instructions scores
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "call_owner.h"

namespace {

// In the traced child: stops, calls, stops.
[[noreturn]] void call_between_stops(const paro_attention& call) {
  const paro_launch launch = on_threads(1);
  size_t bytes = 0;
  if (paro_workspace_bytes(&call, &launch, &bytes) != PARO_OK) _exit(1);
  const Workspace workspace = make_workspace(bytes);
  // Once before: what the first call alone does, such as binding symbols, is not counted.
  bool ok = paro_forward(&call, &launch, workspace.get(), bytes) == PARO_OK;
  if (!ok || ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(1);
  raise(SIGSTOP);
  ok = paro_forward(&call, &launch, workspace.get(), bytes) == PARO_OK;
  raise(SIGSTOP);
  _exit(ok ? 0 : 1);
}

// Steps of `child` between its two stops, or -1.
long count_steps(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return -1;
  for (long steps = 0;; ++steps) {
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) return -1;
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return -1;
    if (WSTOPSIG(status) == SIGSTOP) return steps;
    if (WSTOPSIG(status) != SIGTRAP) return -1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s TOKENS HEAD_DIM BITS DENSITY\n", argv[0]);
    return 2;
  }
  paro_attention sizes{};
  sizes.batch = sizes.heads = sizes.kv_heads = sizes.orders = sizes.bins = 1;
  sizes.tokens = std::atoi(argv[1]);
  sizes.head_dim = std::atoi(argv[2]);
  sizes.qk_bits = sizes.pv_bits = std::atoi(argv[3]);
  sizes.block_q = 128;
  sizes.block_k = 64;
  std::mt19937 random(1);
  const auto owner = make_call(sizes, std::atof(argv[4]), random);
  int listed = 0;
  for (const int32_t word : owner->block_mask) listed += std::popcount(static_cast<uint32_t>(word));

  const pid_t child = fork();
  if (child == 0) call_between_stops(owner->call);
  const long steps = child < 0 ? -1 : count_steps(child);
  if (child > 0) kill(child, SIGKILL);
  if (steps < 0) {
    std::fprintf(stderr, "the call could not be stepped through: %s\n", paro_last_error());
    return 1;
  }
  std::printf("%ld %lld\n", steps, static_cast<long long>(listed) * sizes.block_q * sizes.block_k);
  return 0;
}
