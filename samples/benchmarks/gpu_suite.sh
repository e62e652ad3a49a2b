#!/usr/bin/env bash
# gpu_suite.sh [OUT_DIR] [--minutes 9.5] [--skip STEP]... [--dry-run]: build for this machine's GPU,
# check, measure, print a table (samples/benchmarks/gpu/suite.py). Runs from a bare checkout with
# the machine's own Python; PYTHON names another.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$(command -v "${PYTHON:-python3}") || {
  echo "gpu_suite.sh: python: expected 3.10 or later, found no ${PYTHON:-python3}; set PYTHON" >&2
  exit 2
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "gpu_suite.sh: python: expected 3.10 or later, got $("$python" -V 2>&1); set PYTHON" >&2
  exit 2
}
root=$(cd "$here/../.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
# Tools installed next to Python, such as cmake, are used where the machine has none of its own.
PATH=$PATH:$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
exec "$python" -m samples.benchmarks.gpu.suite "$@"
