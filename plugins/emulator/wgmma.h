// wgmma.mma_async: a warpgroup's 64 x N tile, with operands in shared memory or A in registers.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "emulator/diagnosis.h"

namespace paro::emulator {

enum class WgmmaTypes { s8_s8, u8_s8 };

// The arguments of one thread for wgmma.mma_async.
struct WgmmaOperand {
  int32_t* accumulators;        // columns / 2 registers
  uint64_t a_descriptor;        // used where a_registers is null
  const uint32_t* a_registers;  // 4 registers: 64 x 32 bytes over the warpgroup
  uint64_t b_descriptor;
  bool accumulate;  // false: D = A B
};

// The asynchronous operations of one warpgroup.
class WgmmaQueue {
 public:
  void reset();
  bool has_pending() const { return !pending_.empty(); }
  void fence() { fenced_ = true; }
  void issue(WgmmaTypes types, int columns, const std::array<WgmmaOperand*, 128>& operands,
             const Place& place);
  void commit() { committed_groups_++; }
  void wait(int allowed_groups, const Place& place);

 private:
  // Accumulator registers of a pending product: the true values. The thread's own copy is poison.
  struct Accumulators {
    std::array<int32_t*, 128> registers;
    int count;
    std::vector<int32_t> values;  // [128][count]
    int operations = 0;
  };
  struct Operation {
    WgmmaTypes types;
    uint64_t a_descriptor, b_descriptor;
    bool a_in_registers, accumulate;
    std::array<std::array<uint32_t, 4>, 128> a_registers;
    std::shared_ptr<Accumulators> accumulators;
    uint64_t group;
    Place place;
  };
  // The decoded operands and result of one operation. They are members, because a diagnosis
  // abandons the stacks of suspended threads without freeing what these own.
  struct Scratch {
    int16_t a[64 * 32], b[256 * 32];
    int32_t tile[64 * 256];
  };
  std::shared_ptr<Accumulators> acquire(const std::array<WgmmaOperand*, 128>& operands, int columns,
                                        const Place& place);
  void execute(const Operation& operation);
  static void release(Accumulators& accumulators, const Place& place);

  std::vector<std::unique_ptr<Operation>> pending_;
  std::unique_ptr<Scratch> scratch_;
  uint64_t committed_groups_ = 0;
  bool fenced_ = false;
};

void wgmma_fence(const Place& place);
void wgmma_commit(const Place& place);
void wgmma_wait(int allowed_groups, const Place& place);
void wgmma_multiply(WgmmaTypes types, int columns, WgmmaOperand operand, const Place& place);

}  // namespace paro::emulator
