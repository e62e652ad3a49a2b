// Replaces CUDA's header of this name when check.py compares TensorRT's headers. They use these
// types, but none of CUDA's functions.
#pragma once

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
