# paro_project_options: what every target of this project is compiled with.
add_library(paro_project_options INTERFACE)
target_compile_options(paro_project_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
  # A note that GCC 4.6 changed how 64-byte aligned arguments (tensor maps) are passed.
  -Wno-psabi
  # Kernels unroll loops by a pragma that only nvcc knows.
  -Wno-unknown-pragmas)
# Kernels are checked value by value against plain computations: contraction would differ by CPU.
target_compile_options(paro_project_options INTERFACE -ffp-contract=off)

if(PARO_SANITIZE)
  target_compile_options(paro_project_options INTERFACE
    -fsanitize=${PARO_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(paro_project_options INTERFACE -fsanitize=${PARO_SANITIZE})
endif()

# How libraries that leave this machine are linked: they run with any libstdc++. The static one's
# unused parts are left out, as one of them would ask for glibc 2.36; libgcc is the system's.
set(PARO_PORTABLE_LINK_OPTIONS -static-libstdc++ -shared-libgcc LINKER:--gc-sections)
