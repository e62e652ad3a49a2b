// What the harness does; each returns the process's exit status.
#pragma once

#include <string>

#include "case.h"
#include "memory.h"
#include "plugin_library.h"

namespace paro::trt::host {

// Prints the creator's names, fields and the combinations of types it takes, as JSON.
int print_contract(const PluginLibrary& library);

// Leads a plugin from creation to the end as an engine's build and use do; writes what the last
// enqueue computed to `output`.
int live(const PluginLibrary& library, const Case& content, Memory& memory,
         const std::string& output);

// Does what no caller should, and expects a status and one line that says why.
int misuse(const PluginLibrary& library, const Case& content, Memory& memory);

}  // namespace paro::trt::host
