// Checks that a run counts and reports, and capture of standard error.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <utility>

namespace paro::trt::host {

class Checks {
 public:
  void expect(bool condition, const std::string& what) {
    ++count_;
    if (condition) return;
    ++failures_;
    std::printf("FAILED: %s\n", what.c_str());
  }

  // Ends a run: prints the counts and returns the exit status of the process.
  int report(const char* name) const {
    std::printf("%s: %d checks, %d failed\n", name, count_, failures_);
    return failures_ == 0 ? 0 : 1;
  }

 private:
  int count_ = 0;
  int failures_ = 0;
};

// Returns what `call` writes to standard error. The text does not reach the real standard error.
std::string errors_of(const std::function<void()>& call);

}  // namespace paro::trt::host
