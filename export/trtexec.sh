#!/bin/sh
# Build an engine with trtexec, then write its manifest, so that paro-trt runs it:
#
#     sh export/trtexec.sh wan.onnx wan.engine [--dry-run] [options of paro-trt build]
#
# --dry-run prints the trtexec command and stops. With TensorRT before 10.7 export the model with
# --body none: there a function in the file goes before the plugin.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: sh export/trtexec.sh MODEL.onnx OUT.engine [--dry-run] [options]" >&2
    exit 2
fi
model=$1 engine=$2
shift 2
dry_run=no
if [ "${1-}" = --dry-run ]; then
    dry_run=yes
    shift
fi

python=$(dirname "$0")/../.venv/bin/python
[ -x "$python" ] || python=python3
command=$("$python" -m paro_trt build "$model" -o "$engine" "$@" --print-trtexec)
echo "$command"
[ "$dry_run" = no ] || exit 0
eval "$command"
"$python" -m paro_trt build "$model" -o "$engine" "$@" --adopt
