// Planted bugs. Some mode of the emulator must catch every mutant of a kernel, and the kernel
// without a bug must pass in all modes.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "emulator/diagnosis.h"

namespace mutants {

// The result of one run: a diagnosis, a wrong result, or nothing.
struct Outcome {
  std::optional<paro::emulator::Diagnosis> diagnosis;
  bool correct = true;
};

struct Mutant {
  const char* kernel;
  const char* bug;  // "none" for the correct kernel
  std::function<Outcome()> run;
};

std::vector<Mutant> pipelined_mutants();

}  // namespace mutants
