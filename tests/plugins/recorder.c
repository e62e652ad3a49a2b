/* A kernel library between an op and the emulated kernels, PARO_KERNELS: it remembers the launch. */
#include <dlfcn.h>

#include "paro/paro_c.h"

void *last_stream, *last_workspace;
size_t last_bytes;

static void *find(const char *name) {
  static void *kernels;
  if (!kernels) kernels = dlopen(PARO_KERNELS, RTLD_NOW | RTLD_LOCAL);
  return dlsym(kernels, name);
}

uint32_t paro_abi_version(void) { return PARO_REPORTED_ABI; }

const char *paro_last_error(void) {
  return ((const char *(*)(void))find("paro_last_error"))();
}

paro_status paro_workspace_bytes(const paro_attention *call, const paro_launch *launch,
                                 size_t *bytes) {
  paro_status (*forward)(const paro_attention *, const paro_launch *, size_t *) =
      find("paro_workspace_bytes");
  return forward(call, launch, bytes);
}

paro_status paro_forward(const paro_attention *call, const paro_launch *launch, void *workspace,
                         size_t bytes) {
  paro_status (*forward)(const paro_attention *, const paro_launch *, void *, size_t) =
      find("paro_forward");
  last_stream = launch->stream;
  last_workspace = workspace;
  last_bytes = bytes;
  return forward(call, launch, workspace, bytes);
}
