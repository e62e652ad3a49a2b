#define PARO_ISA avx512
#define PARO_VECTOR_FLOATS 16
#include "attend.h"
#include "peak.h"
#include "prepare.h"

namespace paro::cpu {
const HeadKernels avx512_kernels = {"avx512", avx512::prepare_key_block,
    avx512::prepare_summary_block, avx512::attend_tile, avx512::multiply_add_chains};
}
