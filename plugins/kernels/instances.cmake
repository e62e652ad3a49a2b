# Source files that instantiate all kernels. In a project: paro_kernel_instances. As a script, one
# file a pair of number types: cmake -DFOLDER=... -P instances.cmake

# Pairs of stage 2, "QK-PV", in units that are compiled together. Images of one unit are compressed
# together, and kernels with equal value products have most of their code in common: a unit a pair
# made the library 1.7 times as large.
set(PARO_UNITS values_16bit values_s8 values_s4)
set(PARO_PAIRS_values_16bit f16-f16 s8-f16 s4-f16 bf16-bf16 s8-bf16 s4-bf16)
set(PARO_PAIRS_values_s8 f16-s8 bf16-s8 s8-s8 s4-s8)
set(PARO_PAIRS_values_s4 f16-s4 bf16-s4 s8-s4 s4-s4)

function(paro_write_stage2 file)
  set(content "#include \"kernels/sparse_attention/instance.cuh\"\n")
  foreach(pair IN LISTS ARGN)
    string(REPLACE "-" ";" numbers ${pair})
    list(GET numbers 0 qk)
    list(GET numbers 1 pv)
    string(APPEND content "
template paro::kernels::sparse_attention::Kernel
paro::kernels::sparse_attention::kernel_of<paro::kernels::Number::${qk}, paro::kernels::Number::${pv}>(
    const paro::kernels::sparse_attention::Selection&);
")
  endforeach()
  file(CONFIGURE OUTPUT ${file} CONTENT "${content}" @ONLY)
endfunction()

function(paro_write_stage2_wgmma file)
  file(CONFIGURE OUTPUT ${file} @ONLY CONTENT "#include \"kernels/sparse_attention/sm90/instance.cuh\"

namespace paro::kernels::sparse_attention {
Kernel wgmma_kernel(const Selection& s) {
  return s.head_dim == 64 ? sized_wgmma<64>(s) : sized_wgmma<128>(s);
}
}  // namespace paro::kernels::sparse_attention
")
endfunction()

function(paro_write_stage1 file)
  file(CONFIGURE OUTPUT ${file} CONTENT "#include \"kernels/reorder_quantize/instance.cuh\"\n")
endfunction()

# Writes the units of both stages to a folder, and their paths to `sources`.
function(paro_kernel_instances folder suffix sources)
  set(files ${folder}/reorder_quantize.${suffix})
  paro_write_stage1(${files})
  paro_write_stage2_wgmma(${folder}/sparse_attention_wgmma.${suffix})
  list(APPEND files ${folder}/sparse_attention_wgmma.${suffix})
  foreach(unit IN LISTS PARO_UNITS)
    set(file ${folder}/sparse_attention_${unit}.${suffix})
    paro_write_stage2(${file} ${PARO_PAIRS_${unit}})
    list(APPEND files ${file})
  endforeach()
  set(${sources} ${files} PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  paro_write_stage1(${FOLDER}/reorder_quantize.cu)
  paro_write_stage2_wgmma(${FOLDER}/sparse_attention_wgmma.cu)
  foreach(unit IN LISTS PARO_UNITS)
    foreach(pair IN LISTS PARO_PAIRS_${unit})
      paro_write_stage2(${FOLDER}/sparse_attention_${pair}.cu ${pair})
    endforeach()
  endforeach()
endif()
