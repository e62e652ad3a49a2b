# Writes the source files that instantiate all kernels. A project calls paro_kernel_instances. As a
# script, cmake -DFOLDER=... -P instances.cmake writes smaller files: one for each pair of number
# types, and four for stage 1.
#
# The end of a file's name says which targets have its instructions (paro_unit_targets): "_native",
# 4-bit products of tensor cores, before sm_90; "_unpacked", 4-bit codes multiplied as 8 bits, from
# sm_90 on; "_wgmma", sm_90a alone; all others, every target.

# Pairs of number types of stage 2, "QK-PV", grouped by the source file that holds them. The images
# of one source file are compressed together, and kernels with equal value products share most of
# their code: with one file for each pair the library was 1.7 times as large. Files are compiled in
# this order, those that take longest first, so that no core is left with a long one at the end.
set(PARO_SOURCES values_s4_native values_s4_unpacked values_s8 keys_s4_native keys_s4_unpacked
                 values_16bit
)
set(PARO_PAIRS_values_16bit f16-f16 s8-f16 bf16-bf16 s8-bf16)
set(PARO_PAIRS_values_s8 f16-s8 bf16-s8 s8-s8)
set(PARO_PAIRS_values_s4_native f16-s4 bf16-s4 s8-s4 s4-s4)
set(PARO_PAIRS_values_s4_unpacked ${PARO_PAIRS_values_s4_native})
set(PARO_PAIRS_keys_s4_native s4-f16 s4-bf16 s4-s8)
set(PARO_PAIRS_keys_s4_unpacked ${PARO_PAIRS_keys_s4_native})

# Of `targets`, such as 80 or 90a, those that have the instructions of a source file.
function(paro_unit_targets name targets result)
  if(name MATCHES "_native$")
    list(FILTER targets INCLUDE REGEX "^8")
  elseif(name MATCHES "_unpacked$")
    list(FILTER targets EXCLUDE REGEX "^8")
  elseif(name MATCHES "_wgmma$")
    list(FILTER targets INCLUDE REGEX "^90a$")
  endif()
  set(${result} ${targets} PARENT_SCOPE)
endfunction()

# Of `targets`, all if `bits`, such as 8-8 for Q K^T and P V, has those of the file's pair or is
# empty, else none. Names of files that hold no pair, or several, are taken for every one.
function(paro_unit_bits name targets bits result)
  string(REGEX MATCH "_(bf16|f16|s8|s4)-(bf16|f16|s8|s4)" pair ${name})
  if(name MATCHES "_wgmma$")
    set(pair s8-s8)
  endif()
  string(REGEX REPLACE "^_" "" pair "${pair}")
  string(REGEX REPLACE "b?f16" "16" pair "${pair}")
  string(REPLACE s "" pair "${pair}")
  if(pair AND bits AND NOT pair IN_LIST bits)
    set(targets "")
  endif()
  set(${result} ${targets} PARENT_SCOPE)
endfunction()

function(paro_write_stage2 file)
  get_filename_component(name ${file} NAME_WE)
  set(four_bit native)
  if(name MATCHES "_unpacked$")
    set(four_bit unpacked)
  endif()
  set(content "#include \"kernels/sparse_attention/sm80/instance.cuh\"\n")
  foreach(pair IN LISTS ARGN)
    string(REPLACE "-" ";" numbers ${pair})
    list(GET numbers 0 qk)
    list(GET numbers 1 pv)
    string(APPEND content "
template std::span<const paro::kernels::sparse_attention::Kernel>
paro::kernels::sparse_attention::mma_sync_kernels<paro::kernels::Number::${qk}, paro::kernels::Number::${pv},
                                                  paro::kernels::FourBit::${four_bit}>();
")
  endforeach()
  file(CONFIGURE OUTPUT ${file} CONTENT "${content}" @ONLY)
endfunction()

function(paro_write_stage2_wgmma file)
  file(CONFIGURE OUTPUT ${file}
       CONTENT "#include \"kernels/sparse_attention/sm90/instance.cuh\"\n"
  )
endfunction()

# Source types and head_dims of stage 1, which instance.cuh instantiates apart.
set(PARO_STAGE1 f16-64 f16-128 bf16-64 bf16-128)

function(paro_write_stage1 file)
  set(content "#include \"kernels/reorder_quantize/instance.cuh\"\n")
  foreach(part IN LISTS ARGN)
    string(REPLACE "-" ";" words ${part})
    list(GET words 0 source)
    list(GET words 1 head_dim)
    string(APPEND content "
template paro::kernels::reorder_quantize::Stage
paro::kernels::reorder_quantize::stage_of<paro::kernels::Number::${source}, ${head_dim}>(const Selection&);
")
  endforeach()
  file(CONFIGURE OUTPUT ${file} CONTENT "${content}" @ONLY)
endfunction()

function(paro_write_version_2 file)
  file(CONFIGURE OUTPUT ${file}
       CONTENT "#include \"kernels/routing/instance.cuh\"\n#include \"kernels/smoothing/instance.cuh\"\n#include \"kernels/summaries/instance.cuh\"\n"
  )
endfunction()

# Writes a source file for each pair of number types, and their paths to the variable `result`.
function(paro_write_pairs folder suffix result)
  set(files "")
  foreach(source IN LISTS PARO_SOURCES)
    string(REGEX MATCH "_(native|unpacked)$" ending ${source})
    foreach(pair IN LISTS PARO_PAIRS_${source})
      set(file ${folder}/sparse_attention_${pair}${ending}.${suffix})
      paro_write_stage2(${file} ${pair})
      list(APPEND files ${file})
    endforeach()
  endforeach()
  set(${result} ${files} PARENT_SCOPE)
endfunction()

# Writes the source files of both stages to a folder, and their paths to the variable `result`;
# with a file for each pair of number types if APART follows.
function(paro_kernel_instances folder suffix result)
  if("APART" IN_LIST ARGN)
    paro_write_pairs(${folder} ${suffix} files)
  else()
    set(files "")
    foreach(source IN LISTS PARO_SOURCES)
      set(file ${folder}/sparse_attention_${source}.${suffix})
      paro_write_stage2(${file} ${PARO_PAIRS_${source}})
      list(APPEND files ${file})
    endforeach()
  endif()
  paro_write_stage2_wgmma(${folder}/sparse_attention_wgmma.${suffix})
  paro_write_version_2(${folder}/version_2.${suffix})
  list(APPEND files ${folder}/sparse_attention_wgmma.${suffix} ${folder}/version_2.${suffix})
  paro_write_stage1(${folder}/reorder_quantize.${suffix} ${PARO_STAGE1})
  list(APPEND files ${folder}/reorder_quantize.${suffix})
  set(${result} ${files} PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  foreach(part IN LISTS PARO_STAGE1)
    paro_write_stage1(${FOLDER}/reorder_quantize_${part}.cu ${part})
  endforeach()
  paro_write_stage2_wgmma(${FOLDER}/sparse_attention_wgmma.cu)
  paro_write_version_2(${FOLDER}/version_2.cu)
  paro_write_pairs(${FOLDER} cu files)
endif()
