// TensorRT's plugin interface, either from the SDK's header or from this project's declarations.
#pragma once

#ifdef PARO_TRT_ABI_SHIM
#include "abi/nv_infer_runtime.h"
#else
#include <NvInferRuntime.h>
#endif
