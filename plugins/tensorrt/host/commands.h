// The commands of the harness. Each returns the exit status of the process.
#pragma once

#include <string>

#include "case.h"
#include "memory.h"
#include "plugin_library.h"

namespace paro::trt::host {

// Prints as JSON, for the creator of each version, its names, its fields, those that an engine
// stores with the timing cache ID, and the combinations of types that it accepts.
int print_contract(const PluginLibrary& library);

// Takes a plugin from creation to its end, in the order in which TensorRT builds and runs an
// engine. Writes the result of the last enqueue to `output`.
int live(const PluginLibrary& library, const Case& content, Memory& memory,
         const std::string& output);

// Makes calls that no caller should make. Each must return an error status and print one line that
// gives the reason.
int misuse(const PluginLibrary& library, const Case& content, Memory& memory);

}  // namespace paro::trt::host
