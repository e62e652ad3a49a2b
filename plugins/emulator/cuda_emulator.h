// Everything that a kernel source and its launcher need to run on the CPU. Include it through
// ptx/platform.cuh, which chooses between this file and the CUDA headers.
#pragma once

#include "emulator/vector_types.h"

#include "emulator/float16.h"
#include "emulator/intrinsics.h"
#include "emulator/keywords.h"
#include "emulator/launch.h"
#include "emulator/matrix.h"
#include "emulator/options.h"
#include "emulator/stats.h"
