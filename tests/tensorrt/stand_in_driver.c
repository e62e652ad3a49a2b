/* Stands in for libcuda.so.1, with the host's memory as the device's. It shows that the harness
 * calls the driver in order and copies what it should; nothing about a GPU. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int context, stream;
static _Thread_local int entered;

int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal; }
int cuDevicePrimaryCtxRetain(void **out, int device) { return *out = &context, device; }
int cuCtxSetCurrent(void *given) { return entered = 1, given == &context ? 0 : 201; }
int cuMemAlloc_v2(uint64_t *out, size_t size) {
  void *data = 0;
  if (!entered || posix_memalign(&data, 256, size ? size : 1)) return 2;
  return *out = (uint64_t)data, 0;
}
int cuMemFree_v2(uint64_t data) { return free((void *)data), 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) {
  return memcpy((void *)to, from, size), 0;
}
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) {
  return memcpy(to, (void *)from, size), 0;
}
int cuStreamCreate(void **out, unsigned flags) { return *out = &stream, flags == 1 ? 0 : 1; }
int cuStreamSynchronize(void *given) { return given == &stream ? 0 : 400; }
