// Runs every mutant in every mode, and prints which mode caught it and how.
#include "emulator/tests/mutants.h"

#include <cstdio>

#include "emulator/options.h"

namespace {

using paro::emulator::options;

struct Mode {
  const char* name;
  bool late;
  std::vector<uint32_t> seeds;
};

const std::vector<Mode> modes = {
    {"early", false, {0}},
    {"LATE", true, {0}},
    {"SEED", false, {1, 2, 3, 4, 5, 6}},
    {"LATE+SEED", true, {1, 2, 3, 4, 5, 6}},
};

bool is_planted(const mutants::Mutant& mutant) { return std::string(mutant.bug) != "none"; }

// Returns "" if the mode found nothing wrong. The unmutated kernels run with more seeds.
std::string caught_by(const mutants::Mutant& mutant, const Mode& mode) {
  std::vector<uint32_t> seeds = mode.seeds;
  if (!is_planted(mutant) && seeds.size() > 1) {
    for (uint32_t seed = 100; seed < 120; seed++) seeds.push_back(seed);
  }
  for (const uint32_t seed : seeds) {
    options().late = mode.late;
    options().seed = seed;
    const mutants::Outcome outcome = mutant.run();
    if (outcome.diagnosis) return paro::emulator::fault_name(outcome.diagnosis->fault);
    if (!outcome.correct) return "wrong result";
  }
  return {};
}

// Returns whether the row is as expected: a mutant must be caught, and the unmutated kernel must
// not.
bool print_row(const mutants::Mutant& mutant) {
  const bool planted = is_planted(mutant);
  bool caught = false;
  std::printf("%-12s %-26s", mutant.kernel, mutant.bug);
  for (const Mode& mode : modes) {
    const std::string how = caught_by(mutant, mode);
    caught |= !how.empty();
    std::printf(" %-16s", how.empty() ? "-" : how.c_str());
  }
  const bool as_expected = caught == planted;
  std::printf(" %s\n", as_expected ? "ok" : planted ? "MISSED" : "FALSE ALARM");
  return as_expected;
}

}  // namespace

int main() {
  std::printf("%-12s %-26s", "kernel", "planted bug");
  for (const Mode& mode : modes) std::printf(" %-16s", mode.name);
  std::printf("\n");
  int rows = 0, unexpected = 0;
  for (const mutants::Mutant& mutant : mutants::pipelined_mutants()) {
    rows++;
    unexpected += !print_row(mutant);
  }
  std::printf("%d rows, %d unexpected\n", rows, unexpected);
  return unexpected > 0;
}
