// The kernels in one instruction set. This file is compiled once for each set; PARO_ISA is its
// name.
#include "attend.h"
#include "peak.h"
#include "prepare.h"

#define PARO_TEXT(x) PARO_TEXT_(x)
#define PARO_TEXT_(x) #x
#define PARO_KERNELS(isa) PARO_KERNELS_(isa)
#define PARO_KERNELS_(isa) isa##_kernels

namespace paro::cpu {

const HeadKernels PARO_KERNELS(PARO_ISA) = {
    PARO_TEXT(PARO_ISA),           PARO_ISA::Codes::kOperand,       PARO_ISA::kMultipliesBfloat16,
    PARO_ISA::prepare_key_block,   PARO_ISA::prepare_summary_block, PARO_ISA::attend_tile,
    PARO_ISA::multiply_add_chains,
};

}  // namespace paro::cpu
