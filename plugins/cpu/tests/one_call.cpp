// Makes one call on one thread, to count its instructions: under callgrind, or by single-stepping.
// Single-stepping is exact for any instruction set; Valgrind does not support AVX-512.
//
//   paro_cpu_one_call TOKENS HEAD_DIM BITS DENSITY
//                     [fine FINE_DENSITY | corrected | routed | smoothed] [step]
//
// It prints how many scores the call has in exact blocks, and how many pairs of a row and a block
// are fine.
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

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
  std::vector<std::string> options(argv + std::min(argc, 5), argv + argc);
  const bool steps_wanted = !options.empty() && options.back() == "step";
  if (steps_wanted) options.pop_back();
  paro_attention sizes{};
  sizes.fine_summaries = options.size() == 2 && options[0] == "fine";
  sizes.mean_correction = options.size() == 1 && options[0] == "corrected";
  sizes.routing = options.size() == 1 && options[0] == "routed";
  sizes.smoothing = options.size() == 1 && options[0] == "smoothed";
  const int32_t pooled = sizes.fine_summaries + sizes.mean_correction + sizes.routing;
  const int32_t features = pooled + sizes.smoothing;
  if (argc < 5 || (!options.empty() && features == 0)) {
    std::fprintf(stderr,
                 "usage: %s TOKENS HEAD_DIM BITS DENSITY"
                 " [fine FINE_DENSITY | corrected | routed | smoothed] [step]\n",
                 argv[0]);
    return 2;
  }
  sizes.batch = sizes.heads = sizes.kv_heads = sizes.orders = sizes.bins = 1;
  sizes.tokens = std::atoi(argv[1]);
  sizes.head_dim = std::atoi(argv[2]);
  sizes.qk_bits = sizes.pv_bits = std::atoi(argv[3]);
  sizes.block_q = 128;
  sizes.block_k = 64;
  sizes.pool_dropped = pooled > 0;
  std::mt19937 random(1);
  Density density{.exact = std::atof(argv[4])};
  if (sizes.fine_summaries) density.fine = std::atof(options[1].c_str());
  const auto owner = make_call(sizes, density, random);
  int64_t listed = 0, fine = 0;
  for (size_t i = 0; i < owner->block_mask.size(); ++i) {
    const auto exact = static_cast<uint32_t>(owner->block_mask[i]);
    listed += std::popcount(exact);
    if (sizes.fine_summaries) {
      fine += std::popcount(static_cast<uint32_t>(owner->fine_mask[i]) & ~exact);
    }
  }
  std::printf("scores: %lld\n", static_cast<long long>(listed * sizes.block_q * sizes.block_k));
  std::printf("fine blocks of a row: %lld\n", static_cast<long long>(fine * sizes.block_q));

  if (!steps_wanted) return call_once(owner->call) ? 0 : 1;
  const long steps = count_steps(owner->call);
  if (steps < 0) {
    std::fprintf(stderr, "the call could not be stepped through: %s\n", paro_last_error());
    return 1;
  }
  std::printf("instructions: %ld\n", steps);
  return 0;
}
