// Which build of this library it is, so that builds of one version are told apart.
#pragma once

namespace paro::trt {

// The first digits of the linker's build ID; empty where the linker wrote none. Static storage.
const char* build_id() noexcept;

}  // namespace paro::trt
