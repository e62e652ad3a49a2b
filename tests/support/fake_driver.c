/* Takes the place of libcuda.so.1, and of libnvidia-ml.so.1, for programs that ask what is there.
 * The environment says what: FAKE_CUDA (12080), FAKE_RELEASE ("570.86.15"), FAKE_SMS ("89,90"), and
 * FAKE_FAILURE, the status of cuInit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name) {
  const char *text = getenv(name);
  return text ? atoi(text) : 0;
}

static int sm_of(int device) {
  const char *text = getenv("FAKE_SMS");
  while (text && device--) text = strchr(text, ',') ? strchr(text, ',') + 1 : 0;
  return text && *text ? atoi(text) : 0;
}

int cuDriverGetVersion(int *out) { return *out = number("FAKE_CUDA"), 0; }
int cuInit(unsigned flags) { return (void)flags, number("FAKE_FAILURE"); }
int cuGetErrorName(int status, const char **out) {
  return *out = status == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN", 0;
}
int cuDeviceGetCount(int *out) {
  for (*out = 0; sm_of(*out); ++*out) {}
  return 0;
}
int cuDeviceGet(int *out, int index) { return *out = 40 + index, 0; } /* a handle is no index */
int cuDeviceGetName(char *out, int size, int device) {
  return snprintf(out, size, "Fake GPU %d", device - 40), 0;
}
int cuDeviceTotalMem_v2(size_t *out, int device) { return *out = 24ul << 30, (void)device, 0; }
int cuDeviceGetAttribute(int *out, int which, int device) {
  if (which != 75 && which != 76) return 1;
  return *out = which == 75 ? sm_of(device - 40) / 10 : sm_of(device - 40) % 10, 0;
}

int nvmlInit_v2(void) { return getenv("FAKE_RELEASE") ? 0 : 1; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) {
  return snprintf(out, size, "%s", getenv("FAKE_RELEASE")), 0;
}
