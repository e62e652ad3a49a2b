#define PARO_ISA generic
#define PARO_VECTOR_FLOATS 4
#include "attend.h"
#include "peak.h"
#include "prepare.h"

namespace paro::cpu {
const HeadKernels generic_kernels = {"generic", generic::prepare_key_block,
    generic::prepare_summary_block, generic::attend_tile, generic::multiply_add_chains};
}
