#!/usr/bin/env bash
# build_preset.sh PRESET VENV PYTHON [CMAKE_OPTION...]: configure, build and install into paro_trt/lib
# what a preset of CMakePresets.json describes. cmake and nvcc are the machine's where it has them;
# what it lacks comes from PyPI into VENV, which is made with PYTHON if need be. The environment
# variable CUDA_MAJOR, 12 or 13, chooses the CUDA to compile for; otherwise it is what the driver of
# this machine runs.
set -euo pipefail
preset=$1 venv=$PWD/$2 python=$3
shift 3

refuse() {
  echo "make: $1: expected $2, found none; $3" >&2
  exit 2
}

pip_install() {
  test -x "$venv/bin/pip" || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet "$@"
}

# Prints what to compile with, as choose_nvcc.py says: "use FILE", "install" or "assemble FILE".
# Versions and the driver are checked here, before anything is compiled.
choose_nvcc() {
  "$python" -m paro_trt.nvidia.choose_nvcc "${CUDACXX:-}" "$(command -v nvcc)" \
    "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" \
    "$venv"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc
}

install_nvcc() {
  echo "nvcc: none of 12.8 or later that fits; installing CUDA 13.0's from PyPI into $venv (276 MB)"
  pip_install -r plugins/cmake/cuda-wheels.txt || return
  local toolkit
  for toolkit in "$venv"/lib/python3*/site-packages/nvidia/cu13; do
    # nvcc looks for its libraries in lib64; the wheels have them in lib.
    ln -sfn lib "$toolkit/lib64"
  done
}

# Prints the nvcc of a toolkit for CUDA 12, made of nvcc 13.0 ($1) and wheels. Their folder is their
# own: torch may need another release of the runtime in the venv.
assemble_cuda12() {
  local wheels=$venv/cuda12/wheels wanted=plugins/cmake/cuda12-wheels.txt
  if ! cmp --silent "$wanted" "$wheels/installed.txt"; then
    rm -rf "$wheels"
    pip_install --target "$wheels" -r "$wanted" || return
    cp "$wanted" "$wheels/installed.txt"
  fi
  plugins/cmake/assemble_cuda12.sh "$venv/cuda12/toolkit" "$1" "$wheels" || return
  echo "$venv/cuda12/toolkit/bin/nvcc"
}

command -v "${CXX:-c++}" >/dev/null || refuse "C++ compiler" "g++ 11 or later" "install g++"
if ! command -v cmake >/dev/null; then
  test -x "$venv/bin/cmake" || pip_install 'cmake>=3.24' ||
    refuse cmake "3.24 or later" "install cmake, or let pip reach a package index"
  PATH=$venv/bin:$PATH
fi
case $preset in
plugin*)
  toolkits="install the CUDA toolkit (package cuda-toolkit-13-0 of NVIDIA's repositories, \
cuda-toolkit-12-9 for drivers before 580), set CUDACXX to its nvcc, or let pip reach a package index"
  choice=$(choose_nvcc)
  if [ "$choice" = install ]; then
    install_nvcc || refuse nvcc "12.8 or later" "$toolkits"
    choice=$(choose_nvcc)
    test "$choice" != install || refuse nvcc "CUDA 13.0's in $venv" "remove it and try again"
  fi
  CUDACXX=${choice#* }
  if [ "${choice%% *}" = assemble ]; then
    CUDACXX=$(assemble_cuda12 "$CUDACXX") || refuse "CUDA 12" "its ptxas and runtime" "$toolkits"
  fi
  export CUDACXX
  # CMake keeps the compiler that a folder was configured with.
  configured=$(sed -n 's/^CMAKE_CUDA_COMPILER:[A-Z]*=//p' "build/$preset/CMakeCache.txt" 2>/dev/null ||
    true)
  test "${configured:-$CUDACXX}" = "$CUDACXX" || rm -rf "build/$preset"
  ;;
esac

cmake --preset "$preset" "$@"
cmake --build --preset "$preset" --parallel "${JOBS:-$(nproc)}"
component=Unspecified
test "$preset" != emulated || component=emulated
cmake --install "build/$preset" --component "$component" --strip --prefix .
