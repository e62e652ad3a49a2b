#!/usr/bin/env bash
# assemble_cuda12.sh FOLDER NVCC WHEELS: makes a toolkit in FOLDER that compiles for drivers of CUDA
# 12. The compiler and its own headers (crt) are those of NVCC, of CUDA 13.0; ptxas, the runtime
# and its headers are those of cuda12-wheels.txt in WHEELS, of CUDA 12.9. The code for GPUs is then
# ptxas 12.9's, in the format that CUDA 12's drivers load, and everything linked is of CUDA 12.9.
set -euo pipefail
folder=$1 nvcc=$2 wheels=$3/nvidia

# Such as /usr/local/cuda: nvcc may be a link or a script elsewhere.
toolkit=$("$nvcc" --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
toolkit=$(realpath "$toolkit")

rm -rf "$folder"
mkdir -p "$folder"/{bin,include,nvvm/bin}
# nvcc looks for its tools next to itself, so it is a copy and not a link.
cp "$toolkit/bin/nvcc" "$toolkit/bin/nvcc.profile" "$folder/bin/"
ln -s "$toolkit"/bin/{cudafe++,fatbinary,bin2c,nvlink,crt} "$folder/bin/"
ln -s "$toolkit"/nvvm/libdevice "$folder/nvvm/"
ln -s "$wheels"/cuda_runtime/include/* "$toolkit"/include/{crt,cccl,fatbinary_section.h} \
  "$folder/include/"
ln -s "$wheels/cuda_runtime/lib" "$folder/lib"
ln -s lib "$folder/lib64"
chmod +x "$wheels/cuda_nvcc/bin/ptxas"
ln -s "$wheels/cuda_nvcc/bin/ptxas" "$folder/bin/ptxas"

# PTX begins with the version of the language. The kernels need nothing of 9.0, which is CUDA 13.0's.
cat >"$folder/nvvm/bin/cicc" <<EOF
#!/bin/sh
"$toolkit/nvvm/bin/cicc" "\$@" || exit
while [ \$# -gt 0 ]; do
  test "\$1" != -o || ptx=\$2
  shift
done
sed -i 's/^\.version 9\.0\$/.version 8.8/' "\$ptx"
EOF
chmod +x "$folder/nvvm/bin/cicc"
