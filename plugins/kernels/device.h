// What differs between a GPU and the emulator on the host's side.
#pragma once

#include "paro/paro_c.h"

namespace paro::kernels {

// Name for paro_library_name.
const char* library_name() noexcept;

// 10 * major + minor of the GPU that runs, or a status with its message.
paro_status current_sm(int32_t* sm) noexcept;

// SMs of the current device, or a status with its message.
paro_status processor_count(int32_t* count) noexcept;

// Whether kernels of every generation run, whatever `current_sm` says.
bool runs_any_sm() noexcept;

// Whether this library holds code for sm_90a, the only target that has wgmma.
bool has_wgmma_code() noexcept;

// The bits of Q K^T and of P V that this library has kernels for, such as "8-8,4-8"; "" for all.
const char* built_bits() noexcept;

// What paro_measure_peak answers.
paro_status measure_peak(void* stream, double* operations_per_second) noexcept;

}  // namespace paro::kernels
