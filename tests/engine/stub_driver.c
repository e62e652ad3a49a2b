/* Takes the place of libcuda.so.1 for cuda.core, with the host's memory as the devices'.
 *
 * It has the calls that the package makes cuda.core make, and no other. Streams are in order and
 * do their work at once, but for a capture. It shows which calls are made in which order and on
 * which GPU; nothing about a GPU. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, INVALID_VALUE = 1, NO_CONTEXT = 201, BAD_HANDLE = 400, NOT_FOUND = 500 };
enum { NOT_SUPPORTED = 801, CAPTURING = 900 };
enum { MAJOR = 75, MINOR = 76, MEMORY_POOLS = 115 };
enum { THREAD_LOCAL = 1 };

typedef struct { int device; } Context;
typedef void (*Work)(void *);
typedef struct Node { Work work; void *data; struct Node *next; } Node;
typedef struct { Node *first, **last; } Graph;
typedef struct { Context *context; Graph *captured; } Stream;
typedef struct { int kind, handles, location, device; } PoolProperties;

/* The last GPU is of another generation, and without memory pools. */
static Context contexts[] = {{0}, {1}, {2}};
static const int sm[] = {89, 89, 90};
enum { GPUS = 3, DRIVER = 12040 };
static _Thread_local Context *current;

/* Set by the tests: what calls are reported to, and the status that says why there is no GPU. */
void (*report)(const char *call, uint64_t value, int device);
int failure;

static int note(const char *call, uint64_t value) {
  if (report) report(call, value, current ? current->device : -1);
  return OK;
}

/* The handle of the default stream, which is that of any context. */
#define DEFAULT_STREAM ((Stream *)1)

static int usable(const Stream *stream) {
  if (!current) return NO_CONTEXT;
  return stream == DEFAULT_STREAM || stream->context == current ? OK : BAD_HANDLE;
}

/* Work of a stream that this program does: now, or at each launch of the graph that captures it. */
int enqueue(Stream *stream, Work work, void *data) {
  if (usable(stream)) return usable(stream);
  if (!stream->captured) return work(data), OK;
  Node *node = malloc(sizeof *node);
  *node = (Node){work, data, 0};
  *stream->captured->last = node;
  stream->captured->last = &node->next;
  return OK;
}

#define CALL(name) int stub_##name
#define NOTHING(name) int stub_##name(void) { return OK; }

CALL(cuInit)(unsigned flags) { return failure ? failure : (int)flags; }
CALL(cuDriverGetVersion)(int *out) { return *out = DRIVER, OK; }
CALL(cuGetErrorName)(int status, const char **out) {
  return *out = status == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_OF_THE_STUB", OK;
}
CALL(cuDeviceGetCount)(int *out) { return *out = GPUS, OK; }
CALL(cuDeviceGet)(int *out, int ordinal) { return *out = ordinal, OK; }
CALL(cuDeviceGetName)(char *out, int size, int device) {
  return snprintf(out, size, "Stub GPU"), (void)device, OK;
}
CALL(cuDeviceGetAttribute)(int *out, int which, int device) {
  if (which == MAJOR) *out = sm[device] / 10;
  else if (which == MINOR) *out = sm[device] % 10;
  else if (which == MEMORY_POOLS) *out = device < GPUS - 1;
  else return INVALID_VALUE;
  return OK;
}

CALL(cuDevicePrimaryCtxRetain)(void **out, int device) { return *out = &contexts[device], OK; }
NOTHING(cuDevicePrimaryCtxRelease)
CALL(cuCtxGetCurrent)(void **out) { return *out = current, OK; }
CALL(cuCtxSetCurrent)(void *context) { return current = context, OK; }
CALL(cuCtxGetDevice)(int *out) {
  if (failure || !current) return failure ? failure : NO_CONTEXT;
  return *out = current->device, OK;
}
CALL(cuCtxGetStreamPriorityRange)(int *low, int *high) { return *low = *high = 0, OK; }

CALL(cuStreamCreateWithPriority)(Stream **out, unsigned flags, int priority) {
  if (!current || priority) return NO_CONTEXT;
  *out = calloc(1, sizeof **out);
  (*out)->context = current;
  return note("cuStreamCreate", (uint64_t)*out), flags == 1 ? OK : INVALID_VALUE;
}
CALL(cuStreamDestroy)(Stream *stream) { return free(stream), OK; }
CALL(cuStreamSynchronize)(Stream *stream) {
  return stream != DEFAULT_STREAM && stream->captured ? CAPTURING : usable(stream);
}
CALL(cuStreamIsCapturing)(Stream *stream, int *out) { return *out = !!stream->captured, OK; }

CALL(cuMemPoolCreate)(void **out, const PoolProperties *properties) {
  return *out = malloc(1), properties->device < GPUS - 1 ? OK : NOT_SUPPORTED;
}
CALL(cuMemPoolDestroy)(void *pool) { return free(pool), OK; }
NOTHING(cuMemPoolSetAccess)
CALL(cuMemAlloc)(uint64_t *out, size_t size) {
  if (!current) return NO_CONTEXT;
  *out = (uint64_t)malloc(size);
  return note("allocate", *out);
}
CALL(cuMemFree)(uint64_t data) { return free((void *)data), note("free", data); }
CALL(cuMemAllocFromPoolAsync)(uint64_t *out, size_t size, void *pool, Stream *stream) {
  return usable(stream) ? usable(stream) : pool ? stub_cuMemAlloc(out, size) : INVALID_VALUE;
}
CALL(cuMemFreeAsync)(uint64_t data, Stream *stream) {
  return stream ? stub_cuMemFree(data) : BAD_HANDLE;
}
CALL(cuMemcpyAsync)(uint64_t to, uint64_t from, size_t size, Stream *stream) {
  if (stream->captured || usable(stream)) return stream->captured ? CAPTURING : usable(stream);
  return memcpy((void *)to, (void *)from, size), note("cuMemcpyAsync", size);
}

CALL(cuStreamBeginCapture)(Stream *stream, int mode) {
  if (mode != THREAD_LOCAL) return INVALID_VALUE;
  Graph *graph = stream->captured = calloc(1, sizeof *graph);
  graph->last = &graph->first;
  return note("cuStreamBeginCapture", mode);
}
CALL(cuStreamGetCaptureInfo)(Stream *stream, int *status, uint64_t *id, void **graph) {
  *status = !!stream->captured;
  if (id) *id = 1;
  if (graph) *graph = stream->captured;
  return OK;
}
CALL(cuStreamEndCapture)(Stream *stream, void **graph) {
  if (graph) *graph = stream->captured;
  return stream->captured = 0, note("cuStreamEndCapture", 0);
}
/* cuda.core keeps what a graph needs alive by an object of the driver; here nothing is freed. */
NOTHING(cuUserObjectCreate)
NOTHING(cuUserObjectRelease)
NOTHING(cuGraphRetainUserObject)
NOTHING(cuGraphReleaseUserObject)
NOTHING(cuGraphDestroy)
CALL(cuGraphInstantiateWithParams)(void **out, void *graph, void *parameters) {
  return *out = graph, note("cuGraphInstantiate", (uint64_t)graph), !parameters;
}
CALL(cuGraphLaunch)(Graph *graph, Stream *stream) {
  for (Node *node = graph->first; node; node = node->next) node->work(node->data);
  return usable(stream) ? usable(stream) : note("cuGraphLaunch", (uint64_t)graph);
}
CALL(cuGraphExecDestroy)(void *graph) { return note("cuGraphExecDestroy", (uint64_t)graph); }

/* As a driver of CUDA 12.4 does: without the calls of later ones. */
int cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status) {
  char symbol[64];
  snprintf(symbol, sizeof symbol, "stub_%s", name);
  Dl_info library;
  dladdr(&contexts, &library);
  void *self = dlopen(library.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  *out = version > DRIVER ? 0 : dlsym(self, symbol);
  if (status) *status = !*out;
  return dlclose(self), (void)flags, *out ? OK : NOT_FOUND;
}
