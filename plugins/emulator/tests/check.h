// A small test harness: TEST(name) { CHECK(condition); }, and one main() that runs all tests, or
// those whose name contains the first argument.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "emulator/tests/random_inputs.h"
#include "ptx/launch.cuh"

namespace check {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int failures = 0;

struct Register {
  Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

inline void report(bool passed, const char* file, int line, const std::string& text) {
  if (passed) return;
  // A wrong kernel fails at every element, so the first few are enough.
  if (++failures <= 20) std::printf("    %s:%d: %s\n", file, line, text.c_str());
}

// Restores the emulator's options at the end of a test.
class ScopedOptions {
 public:
  ScopedOptions() : before_(paro::emulator::options()) {}
  ~ScopedOptions() { paro::emulator::options() = before_; }
  ScopedOptions(const ScopedOptions&) = delete;
  ScopedOptions& operator=(const ScopedOptions&) = delete;

 private:
  paro::emulator::Options before_;
};

// Runs body(description) in every combination of LATE and a few seeds.
template <class Body>
void in_every_mode(Body body) {
  const ScopedOptions restore;
  for (const bool late : {false, true}) {
    for (const uint32_t seed : {0u, 1u, 7u}) {
      paro::emulator::options().late = late;
      paro::emulator::options().seed = seed;
      body("late " + std::to_string(late) + " seed " + std::to_string(seed));
    }
  }
}

}  // namespace check

#define TEST(name)                                                  \
  static void test_##name();                                        \
  static const check::Register register_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition) check::report((condition), __FILE__, __LINE__, #condition)
#define CHECK_MESSAGE(condition, message) \
  check::report((condition), __FILE__, __LINE__, std::string(#condition) + ": " + (message))
// Expects that the launch stops with this fault, and that its message contains `text`.
#define CHECK_FAULT(expected_fault, text, ...)                                                \
  do {                                                                                        \
    const auto found = paro::emulator::try_launch(__VA_ARGS__);                               \
    CHECK_MESSAGE(found.has_value(), "no diagnosis");                                         \
    if (found) {                                                                              \
      CHECK_MESSAGE(found->fault == paro::emulator::Fault::expected_fault, found->message()); \
      CHECK_MESSAGE(found->message().find(text) != std::string::npos, found->message());      \
    }                                                                                         \
  } while (false)
#define CHECK_RUNS(...)                                               \
  do {                                                                \
    const auto found = paro::emulator::try_launch(__VA_ARGS__);       \
    CHECK_MESSAGE(!found.has_value(), found ? found->message() : ""); \
  } while (false)
