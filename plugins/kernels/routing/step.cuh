// How routing's estimate walks the key blocks: four blocks a step, since each lane of a quad then
// holds, in the accumulators of a product, all runs of one block.
//
// Column c of a fragment of 8 run means is run 2 f + c % 2 of block c / 2, with f the fragment's
// number: lane i of a quad, which holds columns 2 i and 2 i + 1, has runs 2 f, 2 f + 1 of block i.
#pragma once

#include "kernels/params.h"

namespace paro::kernels::routing {

constexpr int step_blocks = routing_step_blocks, block_runs = routing_block_runs;
constexpr int warp_runs = 16;
constexpr int warps = block_runs / warp_runs, threads = warps * 32;

}  // namespace paro::kernels::routing
