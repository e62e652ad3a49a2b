// Replaces CUDA's header of this name where TensorRT's are only compared (check.py): they use
// these types and no function.
#pragma once

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
