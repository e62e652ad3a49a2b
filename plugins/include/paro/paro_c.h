/* The C ABI of PAROAttention. Every backend library (CPU, CUDA, emulated CUDA) exports these names.
 *
 * Semantics: docs/design.md, section 5; paro_trt/op/reference.py is the specification.
 * Thread safety: all functions may be called from any thread at any time. Between calls, the
 * library keeps the calling thread's last error message and, on GPUs, which kernels are ready on
 * which device. No function allocates device memory, and a failed one leaves no error in CUDA's
 * runtime.
 */
#ifndef PARO_C_H
#define PARO_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PARO_API __attribute__((visibility("default")))
#else
#define PARO_API
#endif

/* Raised when the layout or meaning of anything in this file changes. */
#define PARO_ABI_VERSION 3

typedef enum paro_status {
  PARO_OK = 0,
  PARO_INVALID_ARGUMENT = 1,    /* out of the op's contract */
  PARO_UNSUPPORTED = 2,         /* within the contract, but not in this library */
  PARO_WORKSPACE_TOO_SMALL = 3, /* paro_workspace_bytes says how much is needed */
  PARO_NO_DEVICE = 4,           /* no usable GPU, or its driver is too old */
  PARO_RUNTIME_ERROR = 5        /* the system refused: memory, threads, a launch */
} paro_status;

typedef enum paro_dtype { PARO_FLOAT16 = 0, PARO_BFLOAT16 = 1, PARO_FLOAT32 = 2 } paro_dtype;

/* Rows of channel_affine, each [Hk, D]. The op attends with
 * (key - key mean) / equalizer, query * equalizer and (value - value mean) / value scale. */
typedef enum paro_affine_row {
  PARO_KEY_MEAN = 0,
  PARO_EQUALIZER = 1, /* above 0 */
  PARO_VALUE_MEAN = 2,
  PARO_VALUE_SCALE = 3 /* above 0 */
} paro_affine_row;

#define PARO_AFFINE_ROWS 4

/* Bits of block_mask in one word: one for each key block. */
#define PARO_MASK_WORD_BITS 32

/* The largest `tokens` of a call: token indices stay exact in every type that holds them. */
#define PARO_MAX_TOKENS (1 << 24)

/* One call of the op. Tensors are contiguous and live where the backend computes.
 * NQ = ceil(tokens / block_q), NK = ceil(tokens / block_k), W = ceil(NK / 32). */
typedef struct paro_attention {
  size_t struct_size; /* sizeof(paro_attention) */

  int32_t batch;    /* B */
  int32_t tokens;   /* S */
  int32_t heads;    /* H */
  int32_t kv_heads; /* Hk, divides H */
  int32_t head_dim; /* D, 64 or 128 */
  int32_t orders;   /* O */
  int32_t bins;     /* T */

  int32_t dtype;        /* paro_dtype of query, key, value and output */
  int32_t block_q;      /* 64 or 128 */
  int32_t block_k;      /* 64 or 128 */
  int32_t qk_bits;      /* 16, 8 or 4 */
  int32_t pv_bits;      /* 16, 8 or 4 */
  int32_t pool_dropped; /* 0 or 1 */

  /* Which inputs of version 2 of the op are used, 0 or 1 each. */
  int32_t fine_summaries;  /* fine_mask; needs pool_dropped */
  int32_t mean_correction; /* corrected_heads */
  int32_t routing;         /* dynamic_blocks */
  int32_t smoothing;       /* rotation; needs qk_bits 4 */

  float scale; /* 0: 1/sqrt(D) */

  const void* query;           /* [B, S, H, D] */
  const void* key;             /* [B, S, Hk, D] */
  const void* value;           /* [B, S, Hk, D] */
  const int32_t* token_order;  /* [O, S] */
  const int32_t* head_order;   /* [H] */
  const int32_t* block_mask;   /* [T, H, NQ, W] */
  const int32_t* tile_order;   /* [T, H*NQ] */
  const float* channel_affine; /* [4, Hk, D], rows: paro_affine_row */
  const int32_t* mask_bin;     /* [B], clamped to [0, T) */
  const int32_t* key_length;   /* [B], in [0, S] */

  /* NULL where not used. */
  const int32_t* fine_mask;       /* [T, H, NQ, W] */
  const int32_t* corrected_heads; /* [H], other than 0: corrected */
  const int32_t* dynamic_blocks;  /* [T, H], clamped to [0, NK] */
  const int32_t* rotation;        /* [Hk, D], signs; 0 in channel 0: the head is not rotated */

  void* output;                /* [B, S, H, D] */
} paro_attention;

/* Where and how to run. Zeros mean defaults. */
typedef struct paro_launch {
  size_t struct_size; /* sizeof(paro_launch) */
  void* stream;       /* CUDA: a cudaStream_t; CPU and emulator: ignored */
  int32_t threads;    /* CPU, emulator: how many; 0: one for each core the process may use */
  int32_t sm;         /* CUDA: 10 * major + minor of the GPU to answer for, such as 89; 0: the current
                         device, or 80 in the emulator, which runs what that GPU would. CPU: ignored */
  size_t max_workspace; /* CUDA: heads are taken in groups so that the workspace takes no more
                           bytes; refused where one head does. 0: all at once. CPU: ignored */
} paro_launch;

/* PARO_ABI_VERSION the library was built with. */
PARO_API uint32_t paro_abi_version(void);

/* "name version", such as "paro-cpu 0.1.0". Static storage. */
PARO_API const char* paro_library_name(void);

/* Message of the calling thread's last call that did not return PARO_OK: the argument, what was
 * expected, what arrived. Valid until the thread's next call. Never NULL. */
PARO_API const char* paro_last_error(void);

/* Bytes of workspace that paro_forward needs for this call. Pointers in `call` are not read. */
PARO_API paro_status paro_workspace_bytes(const paro_attention* call, const paro_launch* launch,
                                          size_t* bytes);

/* Which kernel would run this call, and why: one line of text, cut to `capacity` bytes with its
 * terminating zero. Pointers in `call` are not read. */
PARO_API paro_status paro_describe(const paro_attention* call, const paro_launch* launch,
                                   char* text, size_t capacity);

/* Do now what may be done only once for all calls of this kind: load the kernels and set their
 * attributes on the current device, so that paro_forward neither loads, allocates nor synchronizes.
 * Pointers in `call` are not read. */
PARO_API paro_status paro_prepare(const paro_attention* call, const paro_launch* launch);

/* Compute output: asynchronously in `launch->stream` on a GPU. `workspace` is aligned to 256 bytes
 * and not shared with another running call. */
PARO_API paro_status paro_forward(const paro_attention* call, const paro_launch* launch,
                                  void* workspace, size_t workspace_bytes);

/* Floating-point operations a second of the multiply-add unit that this library's kernels use,
 * measured now, in registers alone, with the launch's threads: what benchmarks hold rates against.
 * CUDA: 8-bit products by mma.sync on the current device; waits for the launch's stream. */
PARO_API paro_status paro_measure_peak(const paro_launch* launch, double* flops_per_second);

#ifdef __cplusplus
}
#endif

#endif /* PARO_C_H */
