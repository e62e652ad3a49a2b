#!/usr/bin/env bash
# build_preset.sh PRESET VENV PYTHON [CMAKE_OPTION...]: configure, build and install into paro_trt/lib
# what a preset of CMakePresets.json describes. cmake and nvcc are the machine's where it has them;
# what it lacks comes from PyPI into VENV, which is made with PYTHON if need be.
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

# Prints the nvcc to use (CUDACXX, the PATH's, the toolkit's, the venv's), or nothing where it is to
# be installed. Versions and the driver are checked here, before anything is compiled.
choose_nvcc() {
  "$python" -m paro_trt.nvidia.choose_nvcc "${CUDACXX:-}" "$(command -v nvcc)" \
    "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" \
    "$venv"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc
}

install_nvcc() {
  echo "nvcc: none of 12.8 or later; installing CUDA 13.0's from PyPI into $venv (276 MB)"
  pip_install -r plugins/cmake/cuda-wheels.txt || return
  local toolkit
  for toolkit in "$venv"/lib/python3*/site-packages/nvidia/cu13; do
    # nvcc looks for its libraries in lib64; the wheels have them in lib.
    ln -sfn lib "$toolkit/lib64"
  done
}

command -v "${CXX:-c++}" >/dev/null || refuse "C++ compiler" "g++ 11 or later" "install g++"
if ! command -v cmake >/dev/null; then
  test -x "$venv/bin/cmake" || pip_install 'cmake>=3.24' ||
    refuse cmake "3.24 or later" "install cmake, or let pip reach a package index"
  PATH=$venv/bin:$PATH
fi
case $preset in
plugin*)
  nvcc=$(choose_nvcc)
  if [ -z "$nvcc" ]; then
    install_nvcc ||
      refuse nvcc "12.8 or later" "install the CUDA toolkit (package cuda-toolkit-13-0 of NVIDIA's \
repositories, cuda-toolkit-12-9 for drivers before 580), set CUDACXX to its nvcc, or let pip reach a \
package index"
    nvcc=$(choose_nvcc)
  fi
  CUDACXX=$nvcc
  export CUDACXX
  ;;
esac

cmake --preset "$preset" "$@"
cmake --build --preset "$preset" --parallel "${JOBS:-$(nproc)}"
component=Unspecified
test "$preset" != emulated || component=emulated
cmake --install "build/$preset" --component "$component" --strip --prefix .
