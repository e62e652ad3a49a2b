// Prints what plugins/kernels/device_cuda.cpp makes of the device of the cuda_runtime.h next to it.
#include <cstdio>

#include "common/error.h"
#include "kernels/device.h"

int main() {
  int32_t sm = 0;
  const paro_status status = paro::kernels::current_sm(&sm);
  std::printf("%d %d %s", status, sm, paro::last_error());
}
