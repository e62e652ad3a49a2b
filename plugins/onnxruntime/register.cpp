// The library's only entry point. SessionOptions.register_custom_ops_library calls it.
#include <array>
#include <charconv>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <utility>

#include "attention_op.h"
#include "backend.h"
#include "call.h"

namespace paro::ort {
namespace {

constexpr const char* kThreadsKey = "paro.threads";
constexpr int32_t kMaxThreads = 4096;

// The domain "paro" with its overloads, for one runtime and one number of threads.
struct Registration {
  Registration(const Api& api, const Backend& backend, int32_t threads)
      : overloads{AttentionOp(api, backend, kFloat, PARO_FLOAT32, threads),
                  AttentionOp(api, backend, kFloat16, PARO_FLOAT16, threads),
                  AttentionOp(api, backend, kBFloat16, PARO_BFLOAT16, threads)} {}

  std::array<AttentionOp, 3> overloads;
  CustomOpDomain* domain = nullptr;
};

// ONNX Runtime does not report when the last session of an options object ends. Registrations are
// therefore kept, one for each requested number of threads. They are never destroyed, because
// sessions may outlive this library's static objects at exit.
Registration& registration_of(const Api& api, const Backend& backend, int32_t threads) {
  static auto& kept = *new std::map<std::pair<const Api*, int32_t>, Registration>;
  return kept.try_emplace({&api, threads}, api, backend, threads).first->second;
}

Status* read_threads(const Api& api, const SessionOptions* options, int32_t& threads) {
  int present = 0;
  if (Status* const status = api.HasSessionConfigEntry(options, kThreadsKey, &present)) {
    return status;
  }
  if (present == 0) return nullptr;
  char text[32] = {};
  size_t size = sizeof text;
  const bool too_long = discard(api, api.GetSessionConfigEntry(options, kThreadsKey, text, &size));
  const char* const end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, threads);
  if (!too_long && error == std::errc{} && rest == end && threads >= 0 && threads <= kMaxThreads) {
    return nullptr;
  }
  return refuse(api, kInvalidArgument,
                "session config entry %s: expected a whole number in 0..%d, got '%s'%s",
                kThreadsKey, kMaxThreads, text, too_long ? " and more" : "");
}

Status* create_domain(const Api& api, Registration& registration) {
  CustomOpDomain* domain = nullptr;
  if (Status* const status = api.CreateCustomOpDomain("paro", &domain)) return status;
  for (const AttentionOp& overload : registration.overloads) {
    if (Status* const status = api.CustomOpDomain_Add(domain, &overload)) {
      api.ReleaseCustomOpDomain(domain);
      return status;
    }
  }
  registration.domain = domain;
  return nullptr;
}

Status* add_to(const Api& api, const Backend& backend, SessionOptions* options) {
  int32_t threads = 0;
  if (Status* const status = read_threads(api, options, threads)) return status;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  Registration& registration = registration_of(api, backend, threads);
  if (registration.domain == nullptr) {
    if (Status* const status = create_domain(api, registration)) return status;
  }
  return api.AddCustomOpDomain(options, registration.domain);
}

}  // namespace
}  // namespace paro::ort

extern "C" __attribute__((visibility("default"))) paro::ort::Status* RegisterCustomOps(
    paro::ort::SessionOptions* options, const paro::ort::ApiBase* base) noexcept {
  using namespace paro::ort;
  // Every version of the interface has CreateStatus.
  const Api& oldest = *base->GetApi(1);
  const char* message = nullptr;
  const Backend* const backend = find_backend(&message);
  if (backend == nullptr) return refuse(oldest, kFail, "%s", message);
  const Api* const api = base->GetApi(backend->api_version);
  if (api == nullptr) {
    return refuse(oldest, kNotImplemented,
                  "ONNX Runtime: expected version 1.%u or later, got %s", backend->api_version,
                  base->GetVersionString());
  }
  try {
    return add_to(*api, *backend, options);
  } catch (const std::exception& error) {
    return refuse(*api, kFail, "PAROAttention: expected to be registered, got %s", error.what());
  }
}
