// The kernels in one instruction set. This file is compiled once for each set; PARO_ISA is its
// name.
#include "attend.h"
#include "correction.h"
#include "peak.h"
#include "prepare.h"
#include "routing.h"

#define PARO_TEXT(x) PARO_TEXT_(x)
#define PARO_TEXT_(x) #x
#define PARO_KERNELS(isa) PARO_KERNELS_(isa)
#define PARO_KERNELS_(isa) isa##_kernels

namespace paro::cpu {

const HeadKernels PARO_KERNELS(PARO_ISA) = {
    .name = PARO_TEXT(PARO_ISA),
    .codes = PARO_ISA::Codes::kOperand,
    .multiplies_bfloat16 = PARO_ISA::kMultipliesBfloat16,
    .strip_rows = PARO_ISA::kStripRows,
    .prepare_key_block = PARO_ISA::prepare_key_block,
    .prepare_summary_block = PARO_ISA::prepare_summary_block,
    .prepare_mean_query = PARO_ISA::prepare_mean_query,
    .attend_mean_queries = PARO_ISA::attend_mean_queries,
    .route_queries = PARO_ISA::route_queries,
    .attend_tile = PARO_ISA::attend_tile,
    .multiply_add_chains = PARO_ISA::multiply_add_chains,
};

}  // namespace paro::cpu
