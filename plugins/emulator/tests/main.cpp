#include <cstring>

#include "emulator/tests/check.h"

int main(int count, char** arguments) {
  const char* wanted = count > 1 ? arguments[1] : "";
  int failed_tests = 0, ran = 0;
  for (const check::Test& test : check::tests()) {
    if (std::strstr(test.name, wanted) == nullptr) continue;
    check::failures = 0;
    test.run();
    ran++;
    failed_tests += check::failures > 0;
    std::printf("%s %s\n", check::failures > 0 ? "FAILED" : "passed", test.name);
    std::fflush(stdout);
  }
  std::printf("%d tests, %d failed\n", ran, failed_tests);
  return failed_tests > 0 || ran == 0;
}
