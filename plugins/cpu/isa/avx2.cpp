#define PARO_ISA avx2
#define PARO_VECTOR_FLOATS 8
#include "attend.h"
#include "peak.h"
#include "prepare.h"

namespace paro::cpu {
const HeadKernels avx2_kernels = {"avx2", avx2::prepare_key_block,
    avx2::prepare_summary_block, avx2::attend_tile, avx2::multiply_add_chains};
}
