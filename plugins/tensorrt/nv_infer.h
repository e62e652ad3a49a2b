// TensorRT's plugin interface: the SDK's header, or this project's declarations of it.
#pragma once

#ifdef PARO_TRT_ABI_SHIM
#include "abi/nv_infer_runtime.h"
#else
#include <NvInferRuntime.h>
#endif
