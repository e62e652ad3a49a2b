// Planted bugs: every mutant of a kernel must be caught by some mode of the emulator, and the
// kernel without one must pass in all of them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "emulator/diagnosis.h"

namespace mutants {

// What one run showed: a diagnosis, a wrong result, or nothing.
struct Outcome {
  std::optional<paro::emulator::Diagnosis> diagnosis;
  bool correct = true;
};

struct Mutant {
  const char* kernel;
  const char* bug;  // "none" for the kernel as it should be
  std::function<Outcome()> run;
};

std::vector<Mutant> pipelined_mutants();

}  // namespace mutants
