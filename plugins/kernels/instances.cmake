# Writes the source files that instantiate all kernels. A project calls paro_kernel_instances. As a
# script, cmake -DFOLDER=... -P instances.cmake writes one file for each pair of number types.

# Pairs of number types of stage 2, "QK-PV", grouped by the source file that holds them. The images
# of one source file are compressed together, and kernels with equal value products share most of
# their code: with one file for each pair the library was 1.7 times as large.
set(PARO_SOURCES values_16bit values_s8 values_s4)
set(PARO_PAIRS_values_16bit f16-f16 s8-f16 s4-f16 bf16-bf16 s8-bf16 s4-bf16)
set(PARO_PAIRS_values_s8 f16-s8 bf16-s8 s8-s8 s4-s8)
set(PARO_PAIRS_values_s4 f16-s4 bf16-s4 s8-s4 s4-s4)

function(paro_write_stage2 file)
  set(content "#include \"kernels/sparse_attention/sm80/instance.cuh\"\n")
  foreach(pair IN LISTS ARGN)
    string(REPLACE "-" ";" numbers ${pair})
    list(GET numbers 0 qk)
    list(GET numbers 1 pv)
    string(APPEND content "
template std::span<const paro::kernels::sparse_attention::Kernel>
paro::kernels::sparse_attention::mma_sync_kernels<paro::kernels::Number::${qk}, paro::kernels::Number::${pv}>();
")
  endforeach()
  file(CONFIGURE OUTPUT ${file} CONTENT "${content}" @ONLY)
endfunction()

function(paro_write_stage2_wgmma file)
  file(CONFIGURE OUTPUT ${file}
       CONTENT "#include \"kernels/sparse_attention/sm90/instance.cuh\"\n"
  )
endfunction()

function(paro_write_stage1 file)
  file(CONFIGURE OUTPUT ${file} CONTENT "#include \"kernels/reorder_quantize/instance.cuh\"\n")
endfunction()

# Writes the source files of both stages to a folder, and their paths to the variable `result`.
function(paro_kernel_instances folder suffix result)
  set(files ${folder}/reorder_quantize.${suffix})
  paro_write_stage1(${files})
  paro_write_stage2_wgmma(${folder}/sparse_attention_wgmma.${suffix})
  list(APPEND files ${folder}/sparse_attention_wgmma.${suffix})
  foreach(source IN LISTS PARO_SOURCES)
    set(file ${folder}/sparse_attention_${source}.${suffix})
    paro_write_stage2(${file} ${PARO_PAIRS_${source}})
    list(APPEND files ${file})
  endforeach()
  set(${result} ${files} PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  paro_write_stage1(${FOLDER}/reorder_quantize.cu)
  paro_write_stage2_wgmma(${FOLDER}/sparse_attention_wgmma.cu)
  foreach(source IN LISTS PARO_SOURCES)
    foreach(pair IN LISTS PARO_PAIRS_${source})
      paro_write_stage2(${FOLDER}/sparse_attention_${pair}.cu ${pair})
    endforeach()
  endforeach()
endif()
