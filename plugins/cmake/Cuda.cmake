# nvcc, the GPUs to compile for, and paro_cuda_options: what every CUDA source is compiled with.
set(PARO_CUDA_TARGETS
    80 86 89 90a 100 120
    CACHE STRING "GPUs to compile for, sm_<target> each; native: the one of this machine"
)
set(PARO_CUDA_PTX
    120
    CACHE STRING "Target whose PTX is carried for later GPUs; empty: none"
)
set(PARO_CUDA_BITS
    ""
    CACHE STRING "Bits of Q K^T and of P V to compile for, such as 8-8,4-8; empty: all"
)
set(PARO_CUDA_OLDEST_NVCC 12.8) # the first to know sm_120

# Targets are given as nvcc's own options: CMake would need to be as new as each target.
set(CMAKE_CUDA_ARCHITECTURES OFF)
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(
    FATAL_ERROR
      "CUDA kernels: expected nvcc, found none that works. `make plugin` gets it from PyPI; or set "
      "CUDACXX to an nvcc ${PARO_CUDA_OLDEST_NVCC} or later, or leave them out: -DPARO_BUILD_CUDA=OFF"
  )
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # before CMake 3.25.2
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS PARO_CUDA_OLDEST_NVCC)
  message(
    FATAL_ERROR "CUDA kernels: expected nvcc ${PARO_CUDA_OLDEST_NVCC} or later, got "
                "${CMAKE_CUDA_COMPILER_VERSION} (${CMAKE_CUDA_COMPILER}); set CUDACXX to another"
  )
endif()

# The runtime's release may be older than nvcc's (assemble_cuda12.sh).
find_file(
  PARO_CUDA_RUNTIME_HEADER cuda_runtime_api.h
  PATHS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} NO_DEFAULT_PATH REQUIRED
)
file(STRINGS ${PARO_CUDA_RUNTIME_HEADER} defined REGEX "^#define CUDART_VERSION")
string(REGEX MATCH "[0-9]+" PARO_CUDART_VERSION "${defined}")
math(EXPR major "${PARO_CUDART_VERSION} / 1000")
set(PARO_CUDA_MAJOR ${major} CACHE INTERNAL "The CUDA that the driver must be of")

# Sets `target` to the one of this machine's first GPU, such as 89 or 90a.
function(paro_native_cuda_target target)
  execute_process(
    COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE capabilities
    ERROR_QUIET
    RESULT_VARIABLE status
  )
  if(NOT status EQUAL 0 OR NOT capabilities MATCHES "^([0-9]+)\\.([0-9])")
    message(
      FATAL_ERROR "PARO_CUDA_TARGETS=native: expected nvidia-smi to name a GPU, it said "
                  "'${capabilities}${status}'; name the target: -DPARO_CUDA_TARGETS=80"
    )
  endif()
  set(found ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
  if(found EQUAL 90)
    set(found 90a) # warpgroup instructions are of sm_90a alone
  endif()
  set(${target} ${found} PARENT_SCOPE)
endfunction()

# A semicolon would end the shell's command that make passes options in.
foreach(list PARO_CUDA_TARGETS PARO_CUDA_PTX PARO_CUDA_BITS)
  string(REPLACE "," ";" ${list} "${${list}}")
endforeach()

if(PARO_CUDA_TARGETS STREQUAL "native")
  paro_native_cuda_target(PARO_CUDA_TARGETS)
endif()
foreach(target IN LISTS PARO_CUDA_TARGETS PARO_CUDA_PTX)
  if(NOT target MATCHES "^[0-9]+[af]?$")
    message(
      FATAL_ERROR "PARO_CUDA_TARGETS, PARO_CUDA_PTX: expected numbers of GPUs such as 80, 90a or "
                  "120f, got '${target}'; separate them by commas"
    )
  endif()
endforeach()
foreach(bits IN LISTS PARO_CUDA_BITS)
  if(NOT bits MATCHES "^(16|8|4)-(16|8|4)$")
    message(FATAL_ERROR "PARO_CUDA_BITS: expected pairs of 16, 8 or 4 such as 8-8 or 4-8, got '${bits}'; "
                        "separate them by commas"
    )
  endif()
endforeach()
string(JOIN "," PARO_CUDA_BITS_NAMES ${PARO_CUDA_BITS})
string(JOIN "," PARO_CUDA_TARGET_NAMES ${PARO_CUDA_TARGETS})
message(STATUS "CUDA kernels: sm_${PARO_CUDA_TARGET_NAMES}, PTX of '${PARO_CUDA_PTX}', "
               "nvcc ${CMAKE_CUDA_COMPILER_VERSION}, for drivers of CUDA ${PARO_CUDA_MAJOR}"
)

# CUDA 12's drivers read the smallest form, --compress-mode=size, from 550.54.14 on; this one all do.
if(PARO_CUDA_MAJOR LESS 13)
  set(PARO_CUDA_COMPRESSION -Xfatbin=-compress-all,--compress-level=3)
else()
  set(PARO_CUDA_COMPRESSION --compress-mode=size)
endif()

add_library(paro_cuda_options INTERFACE)
target_compile_options(
  paro_cuda_options
  INTERFACE --expt-relaxed-constexpr ${PARO_CUDA_COMPRESSION} -Werror=all-warnings
            --threads=4 # targets at once: there are few translation units
            # -Wpedantic and -Wconversion object to what nvcc itself generates.
            -Xcompiler=-Wall,-Wextra,-Wshadow,-Werror,-Wno-unknown-pragmas
)

# Sets nvcc's options to `result` that compile for GPUs, and to PTX of `ptx` unless it is empty.
function(paro_gencode targets ptx result)
  set(options "")
  foreach(target IN LISTS targets)
    list(APPEND options -gencode=arch=compute_${target},code=sm_${target})
  endforeach()
  foreach(target IN LISTS ptx)
    list(APPEND options -gencode=arch=compute_${target},code=compute_${target})
  endforeach()
  set(${result} ${options} PARENT_SCOPE)
endfunction()
