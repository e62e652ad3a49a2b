// The C ABI on CPUs: checks the arguments, chooses the instruction set, and runs one head after
// another with all threads on each.
#include <sched.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>

#include "../common/check.h"
#include "../common/error.h"
#include "../common/status.h"
#include "head_job.h"
#include "parallel.h"
#include "paro/paro_c.h"
#include "workspace.h"

namespace paro::cpu {
namespace {

constexpr size_t kWorkspaceAlignment = 256;

#if defined(__x86_64__) && !defined(PARO_CPU_GENERIC_ONLY)
#define PARO_ISA_NAMES "generic, avx2, avx2_vnni, avx512, avx512_vnni, avx512_bf16"

// CPUID leaf 7.1, EAX bit 4. g++ 11 has no name for it.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}
#elif defined(__aarch64__) && !defined(PARO_CPU_GENERIC_ONLY)
#define PARO_ISA_NAMES "generic, neon_dot"
#else
#define PARO_ISA_NAMES "generic"
#endif

// The environment variable PARO_CPU_ISA selects one by name, for tests and comparisons.
const HeadKernels* choose_kernels() {
  const HeadKernels* best = &generic_kernels;
  const char* wanted = std::getenv("PARO_CPU_ISA");
  [[maybe_unused]] const auto offer = [&](const HeadKernels& kernels, bool runs_here) {
    if (runs_here && (wanted == nullptr || std::strcmp(wanted, kernels.name) == 0)) best = &kernels;
  };
#if defined(__x86_64__) && !defined(PARO_CPU_GENERIC_ONLY)
  const bool avx512 = __builtin_cpu_supports("x86-64-v4");
  offer(avx2_kernels, __builtin_cpu_supports("x86-64-v3"));
  offer(avx2_vnni_kernels, __builtin_cpu_supports("x86-64-v3") && has_avx_vnni());
  offer(avx512_kernels, avx512);
  offer(avx512_vnni_kernels, avx512 && __builtin_cpu_supports("avx512vnni"));
  offer(avx512_bf16_kernels,
        avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"));
#elif defined(__aarch64__) && !defined(PARO_CPU_GENERIC_ONLY)
  offer(neon_dot_kernels, (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0);
#endif
  if (wanted != nullptr && std::strcmp(wanted, best->name) != 0) return nullptr;
  return best;
}

paro_status find_kernels(const HeadKernels** kernels) {
  *kernels = choose_kernels();
  if (*kernels != nullptr) return PARO_OK;
  return fail(PARO_UNSUPPORTED,
              "PARO_CPU_ISA: expected one of " PARO_ISA_NAMES " that this processor has, got %s",
              std::getenv("PARO_CPU_ISA"));
}

int thread_count(const paro_launch& launch) {
  if (launch.threads > 0) return launch.threads;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  return std::max(1, CPU_COUNT(&allowed));
}

size_t workspace_bytes(const paro_attention& call, const HeadKernels& kernels, int threads) {
  Arena arena(nullptr);
  const HeadJob job = make_job(arena, call, kernels);
  const size_t head = arena.used();
  take_scratch(arena, job);
  return head + static_cast<size_t>(threads) * (arena.used() - head);
}

// Lists the tiles of the group's heads in the order of the schedule.
void list_tiles(const HeadJob& job, std::vector<int32_t>& tiles) {
  const paro_attention& call = *job.call;
  const int32_t group = call.heads / call.kv_heads;
  const int64_t count = int64_t{call.heads} * job.query_blocks;
  const int32_t* schedule = call.tile_order + job.mask_bin * count;
  tiles.clear();
  for (int64_t i = 0; i < count; ++i) {
    if (schedule[i] / job.query_blocks / group == job.kv_head) tiles.push_back(schedule[i]);
  }
}

void run(const paro_attention& call, const HeadKernels& kernels, int threads, void* workspace) {
  const Shape shape = Shape::of(call);
  Arena arena(workspace);
  HeadJob job = make_job(arena, call, kernels);
  std::vector<Scratch> scratch;
  for (int t = 0; t < threads; ++t) scratch.push_back(take_scratch(arena, job));

  std::vector<int32_t> tiles;
  tiles.reserve(static_cast<size_t>(call.heads / call.kv_heads) *
                static_cast<size_t>(shape.query_blocks));
  Queue blocks, summaries, tile_queue;
  std::barrier<> together(threads);
  std::atomic<bool> cancelled{false}, started{false};

  const auto begin_head = [&](int64_t index) {
    job.sample = static_cast<int32_t>(index / call.kv_heads);
    job.kv_head = static_cast<int32_t>(index % call.kv_heads);
    job.length = call.key_length[job.sample];
    job.mask_bin = std::clamp(call.mask_bin[job.sample], 0, call.bins - 1);
    const int32_t head = job.kv_head * (call.heads / call.kv_heads);
    job.order = call.token_order + int64_t{call.head_order[head]} * call.tokens;
    list_tiles(job, tiles);
    blocks.reset(shape.key_blocks);
    summaries.reset(shape.summary_blocks);
    tile_queue.reset(static_cast<int64_t>(tiles.size()));
  };
  run_team(threads, cancelled, started, [&](int thread) {
    Scratch& own = scratch[static_cast<size_t>(thread)];
    const int64_t heads = int64_t{call.batch} * call.kv_heads;
    for (int64_t head = 0; head < heads; ++head) {
      if (thread == 0) begin_head(head);
      together.arrive_and_wait();  // the head's job is written
      for (int64_t i; (i = blocks.take()) >= 0;) {
        kernels.prepare_key_block(job, static_cast<int32_t>(i), own);
      }
      together.arrive_and_wait();  // keys, values and means are written
      if (shape.summary_blocks > 0) {
        for (int64_t i; (i = summaries.take()) >= 0;) {
          kernels.prepare_summary_block(job, static_cast<int32_t>(i), own);
        }
        together.arrive_and_wait();  // summary tokens are written
      }
      for (int64_t i; (i = tile_queue.take()) >= 0;) {
        const int32_t tile = tiles[static_cast<size_t>(i)];
        kernels.attend_tile(job, tile / job.query_blocks, tile % job.query_blocks, own);
      }
      together.arrive_and_wait();  // no thread still reads the head's job
    }
  });
}

// The best of a few bursts. Each burst is long enough that the start of the threads does not count.
double measure_peak(const HeadKernels& kernels, int threads) {
  constexpr int64_t kSteps = 4'000'000;
  constexpr int kBursts = 5;
  double best = 0.0;
  std::vector<float> sinks(static_cast<size_t>(threads));
  for (int burst = 0; burst < kBursts; ++burst) {
    std::atomic<bool> cancelled{false}, started{false};
    std::atomic<double> operations{0.0};
    const auto begin = std::chrono::steady_clock::now();
    run_team(threads, cancelled, started, [&](int thread) {
      operations += kernels.multiply_add_chains(kSteps, &sinks[static_cast<size_t>(thread)]);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, operations.load() / seconds.count());
  }
  return best;
}

}  // namespace
}  // namespace paro::cpu

using paro::check_contents;
using paro::check_launch;
using paro::check_pointers;
using paro::check_shape;
using paro::refuse_version_2;
using paro::fail;

extern "C" {

uint32_t paro_abi_version(void) { return PARO_ABI_VERSION; }

const char* paro_library_name(void) { return "paro-cpu " PARO_VERSION; }

const char* paro_last_error(void) { return paro::last_error(); }

paro_status paro_workspace_bytes(const paro_attention* call, const paro_launch* launch,
                                 size_t* bytes) {
  PARO_RETURN_IF_ERROR(check_shape(call));
  PARO_RETURN_IF_ERROR(refuse_version_2(*call));
  PARO_RETURN_IF_ERROR(check_launch(launch));
  if (bytes == nullptr) return fail(PARO_INVALID_ARGUMENT, "bytes: expected a pointer, got NULL");
  const paro::cpu::HeadKernels* kernels = nullptr;
  PARO_RETURN_IF_ERROR(paro::cpu::find_kernels(&kernels));
  *bytes = paro::cpu::workspace_bytes(*call, *kernels, paro::cpu::thread_count(*launch));
  return PARO_OK;
}

paro_status paro_describe(const paro_attention* call, const paro_launch* launch, char* text,
                          size_t capacity) {
  PARO_RETURN_IF_ERROR(check_shape(call));
  PARO_RETURN_IF_ERROR(refuse_version_2(*call));
  PARO_RETURN_IF_ERROR(check_launch(launch));
  if (text == nullptr || capacity == 0) {
    return fail(PARO_INVALID_ARGUMENT, "text: expected room for one line, got none");
  }
  const paro::cpu::HeadKernels* kernels = nullptr;
  PARO_RETURN_IF_ERROR(paro::cpu::find_kernels(&kernels));
  std::snprintf(text, capacity,
                "%s kernels on %d threads: the widest instruction set of this processor%s",
                kernels->name, paro::cpu::thread_count(*launch),
                std::getenv("PARO_CPU_ISA") != nullptr ? ", as PARO_CPU_ISA asks" : "");
  return PARO_OK;
}

paro_status paro_prepare(const paro_attention* call, const paro_launch* launch) {
  PARO_RETURN_IF_ERROR(check_shape(call));
  PARO_RETURN_IF_ERROR(refuse_version_2(*call));
  PARO_RETURN_IF_ERROR(check_launch(launch));
  const paro::cpu::HeadKernels* kernels = nullptr;
  return paro::cpu::find_kernels(&kernels);
}

paro_status paro_forward(const paro_attention* call, const paro_launch* launch, void* workspace,
                         size_t workspace_bytes) {
  PARO_RETURN_IF_ERROR(check_shape(call));
  PARO_RETURN_IF_ERROR(refuse_version_2(*call));
  PARO_RETURN_IF_ERROR(check_launch(launch));
  PARO_RETURN_IF_ERROR(check_pointers(*call));
  PARO_RETURN_IF_ERROR(check_contents(*call));
  const paro::cpu::HeadKernels* kernels = nullptr;
  PARO_RETURN_IF_ERROR(paro::cpu::find_kernels(&kernels));
  const int threads = paro::cpu::thread_count(*launch);
  const size_t needed = paro::cpu::workspace_bytes(*call, *kernels, threads);
  if (workspace == nullptr || workspace_bytes < needed) {
    return fail(PARO_WORKSPACE_TOO_SMALL, "workspace: expected %zu bytes, got %zu", needed,
                workspace == nullptr ? size_t{0} : workspace_bytes);
  }
  if (reinterpret_cast<uintptr_t>(workspace) % paro::cpu::kWorkspaceAlignment != 0) {
    return fail(PARO_INVALID_ARGUMENT, "workspace: expected alignment to %zu bytes, got address %p",
                paro::cpu::kWorkspaceAlignment, workspace);
  }
  try {
    paro::cpu::run(*call, *kernels, threads, workspace);
  } catch (const std::bad_alloc&) {
    return fail(PARO_RUNTIME_ERROR, "memory: expected room for the schedule, got none");
  } catch (const std::system_error& error) {
    return fail(PARO_RUNTIME_ERROR, "threads: expected %d, the system says: %s", threads,
                error.what());
  }
  return PARO_OK;
}

paro_status paro_measure_peak(const paro_launch* launch, double* flops_per_second) {
  PARO_RETURN_IF_ERROR(check_launch(launch));
  if (flops_per_second == nullptr) {
    return fail(PARO_INVALID_ARGUMENT, "flops_per_second: expected a pointer, got NULL");
  }
  const paro::cpu::HeadKernels* kernels = nullptr;
  PARO_RETURN_IF_ERROR(paro::cpu::find_kernels(&kernels));
  try {
    *flops_per_second = paro::cpu::measure_peak(*kernels, paro::cpu::thread_count(*launch));
  } catch (const std::exception& error) {
    return fail(PARO_RUNTIME_ERROR, "threads: the system says: %s", error.what());
  }
  return PARO_OK;
}

}  // extern "C"
