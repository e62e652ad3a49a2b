// An identifier of this build of the library, which differs between two builds of one version.
#pragma once

namespace paro::trt {

// The first digits of the linker's build ID, or "" if the linker wrote none. Static storage.
const char* build_id() noexcept;

}  // namespace paro::trt
