// The C ABI on CPUs: checks the arguments and chooses the instruction set.
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
#include "run_call.h"

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
using paro::fail;

extern "C" {

uint32_t paro_abi_version(void) { return PARO_ABI_VERSION; }

const char* paro_library_name(void) { return "paro-cpu " PARO_VERSION; }

const char* paro_last_error(void) { return paro::last_error(); }

paro_status paro_workspace_bytes(const paro_attention* call, const paro_launch* launch,
                                 size_t* bytes) {
  PARO_RETURN_IF_ERROR(check_shape(call));
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
  PARO_RETURN_IF_ERROR(check_launch(launch));
  const paro::cpu::HeadKernels* kernels = nullptr;
  return paro::cpu::find_kernels(&kernels);
}

paro_status paro_forward(const paro_attention* call, const paro_launch* launch, void* workspace,
                         size_t workspace_bytes) {
  PARO_RETURN_IF_ERROR(check_shape(call));
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
