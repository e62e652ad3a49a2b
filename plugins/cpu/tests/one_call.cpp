// Makes one call on one thread, to count its instructions: under callgrind, or by single-stepping.
// Single-stepping is exact for any instruction set; Valgrind does not support AVX-512.
//
//   paro_cpu_one_call TOKENS HEAD_DIM BITS DENSITY [step]
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "call_owner.h"

namespace {

bool call_once(const paro_attention& call) {
  const paro_launch launch = on_threads(1);
  size_t bytes = 0;
  if (paro_workspace_bytes(&call, &launch, &bytes) != PARO_OK) return false;
  const Workspace workspace = make_workspace(bytes);
  return paro_forward(&call, &launch, workspace.get(), bytes) == PARO_OK;
}

// Runs in the traced child: stops, makes the call, stops again.
[[noreturn]] void call_between_stops(const paro_attention& call) {
  // A first call outside the count binds symbols and does whatever else happens only once.
  if (!call_once(call) || ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(1);
  raise(SIGSTOP);
  const bool ok = call_once(call);
  raise(SIGSTOP);
  _exit(ok ? 0 : 1);
}

// The number of steps that `child` makes between its two stops, or -1.
long step_through(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return -1;
  for (long steps = 0;; ++steps) {
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) return -1;
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return -1;
    if (WSTOPSIG(status) == SIGSTOP) return steps;
    if (WSTOPSIG(status) != SIGTRAP) return -1;
  }
}

long count_steps(const paro_attention& call) {
  std::fflush(nullptr);  // otherwise the child would write it a second time
  const pid_t child = fork();
  if (child < 0) return -1;
  if (child == 0) call_between_stops(call);
  const long steps = step_through(child);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return steps;
}

}  // namespace

int main(int argc, char** argv) {
  const bool steps_wanted = argc == 6 && std::string_view(argv[5]) == "step";
  if (argc != 5 && !steps_wanted) {
    std::fprintf(stderr, "usage: %s TOKENS HEAD_DIM BITS DENSITY [step]\n", argv[0]);
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
  int64_t listed = 0;
  for (const int32_t word : owner->block_mask) listed += std::popcount(static_cast<uint32_t>(word));
  std::printf("scores: %lld\n", static_cast<long long>(listed * sizes.block_q * sizes.block_k));

  if (!steps_wanted) return call_once(owner->call) ? 0 : 1;
  const long steps = count_steps(owner->call);
  if (steps < 0) {
    std::fprintf(stderr, "the call could not be stepped through: %s\n", paro_last_error());
    return 1;
  }
  std::printf("instructions: %ld\n", steps);
  return 0;
}
