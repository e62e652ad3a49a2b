// The schedule of a call: what the threads do, one key/value head after another.
#pragma once

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "workspace.h"

namespace paro::cpu {

inline size_t workspace_bytes(const paro_attention& call, const HeadKernels& kernels, int threads) {
  Arena arena(nullptr);
  const HeadJob job = make_job(arena, call, kernels);
  const size_t head = arena.used();
  take_scratch(arena, job);
  return head + static_cast<size_t>(threads) * (arena.used() - head);
}

// Lists the tiles of the group's heads in the order of the schedule.
inline void list_tiles(const HeadJob& job, std::vector<int32_t>& tiles) {
  const paro_attention& call = *job.call;
  const int32_t group = call.heads / call.kv_heads;
  const int64_t count = int64_t{call.heads} * job.query_blocks;
  const int32_t* schedule = call.tile_order + job.mask_bin * count;
  tiles.clear();
  for (int64_t i = 0; i < count; ++i) {
    if (schedule[i] / job.query_blocks / group == job.kv_head) tiles.push_back(schedule[i]);
  }
}

inline int32_t strips_of(int32_t rows, const HeadKernels& kernels) {
  return (rows + kernels.strip_rows - 1) / kernels.strip_rows;
}

// Calls work(job, head, item, scratch) for the items of a queue, of which each head of the group
// has `count`.
template <class Work>
void for_each_of_group(Queue& queue, const HeadJob& job, int32_t count, Work work, Scratch& own) {
  const int32_t first = job.kv_head * (job.call->heads / job.call->kv_heads);
  for (int64_t i; (i = queue.take()) >= 0;) {
    work(job, first + static_cast<int32_t>(i / count), static_cast<int32_t>(i % count), own);
  }
}

// Runs one key/value head after another, with all threads on each.
inline void run(const paro_attention& call, const HeadKernels& kernels, int threads,
                void* workspace) {
  const Shape shape = Shape::of(call);
  Arena arena(workspace);
  HeadJob job = make_job(arena, call, kernels);
  std::vector<Scratch> scratch;
  for (int t = 0; t < threads; ++t) scratch.push_back(take_scratch(arena, job));

  std::vector<int32_t> tiles;
  tiles.reserve(static_cast<size_t>(call.heads / call.kv_heads) *
                static_cast<size_t>(shape.query_blocks));
  // Of the head: key blocks and mean queries first, then what needs all keys, then the tiles.
  const int32_t group = call.heads / call.kv_heads;
  const int32_t mean_strips = call.mean_correction ? strips_of(job.mean_queries, kernels) : 0;
  const int32_t routing_strips = call.routing ? strips_of(job.query_runs, kernels) : 0;
  Queue blocks, mean_queries, summaries, dense, routes, tile_queue;
  std::barrier<> together(threads);
  std::atomic<bool> cancelled{false}, started{false};

  const auto begin_head = [&](int64_t index) {
    job.sample = static_cast<int32_t>(index / call.kv_heads);
    job.kv_head = static_cast<int32_t>(index % call.kv_heads);
    job.length = call.key_length[job.sample];
    job.mask_bin = std::clamp(call.mask_bin[job.sample], 0, call.bins - 1);
    const int32_t head = job.kv_head * group;
    job.order = call.token_order + int64_t{call.head_order[head]} * call.tokens;
    if (call.smoothing) {
      const int32_t* signs = call.rotation + int64_t{job.kv_head} * call.head_dim;
      job.signs = signs[0] == 0 ? nullptr : signs;
    }
    list_tiles(job, tiles);
    blocks.reset(shape.key_blocks);
    mean_queries.reset(call.mean_correction ? int64_t{group} * job.mean_queries : 0);
    summaries.reset(job.summary_blocks);
    dense.reset(int64_t{group} * mean_strips);
    routes.reset(int64_t{group} * routing_strips);
    tile_queue.reset(static_cast<int64_t>(tiles.size()));
  };
  run_team(threads, cancelled, started, [&](int thread) {
    Scratch& own = scratch[static_cast<size_t>(thread)];
    const int64_t heads = int64_t{call.batch} * call.kv_heads;
    for (int64_t head = 0; head < heads; ++head) {
      if (thread == 0) begin_head(head);
      together.arrive_and_wait();  // the head's job is written
      for (int64_t i; (i = blocks.take()) >= 0;) {
        kernels.prepare_key_block(job, static_cast<int32_t>(i), own);
      }
      for_each_of_group(mean_queries, job, job.mean_queries, kernels.prepare_mean_query, own);
      together.arrive_and_wait();  // keys, values and means are written
      if (job.summary_blocks + mean_strips + routing_strips > 0) {
        const auto attend_means = [&] {
          for_each_of_group(dense, job, mean_strips, kernels.attend_mean_queries, own);
        };
        if (!call.smoothing) attend_means();
        for_each_of_group(routes, job, routing_strips, kernels.route_queries, own);
        for (int64_t i; (i = summaries.take()) >= 0;) {
          kernels.prepare_summary_block(job, static_cast<int32_t>(i), own);
        }
        if (call.smoothing && mean_strips > 0) {
          together.arrive_and_wait();  // summary keys are written: mean queries meet them as well
          attend_means();
        }
        together.arrive_and_wait();  // summary tokens, corrections and masks are written
      }
      for (int64_t i; (i = tile_queue.take()) >= 0;) {
        const int32_t tile = tiles[static_cast<size_t>(i)];
        kernels.attend_tile(job, tile / job.query_blocks, tile % job.query_blocks, own);
      }
      together.arrive_and_wait();  // no thread still reads the head's job
    }
  });
}

}  // namespace paro::cpu
