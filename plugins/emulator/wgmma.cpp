#include "emulator/wgmma.h"

#include <algorithm>
#include <cstring>

#include "emulator/block.h"
#include "emulator/mma_arithmetic.h"
#include "emulator/swizzle.h"

namespace paro::emulator {
namespace {

constexpr int tile_rows = 64, tile_bytes = 32;  // of A: 64 rows x 32 one-byte elements
// A quiet NaN as a float, and as an integer far from any sum.
constexpr int32_t poison_register = 0x7FCBCBCB;

// Fields of the 64-bit shared-memory matrix descriptor (PTX ISA, "Matrix descriptor format").
struct Descriptor {
  uint32_t start, leading_bytes, stride_bytes;
  Swizzle swizzle;
};

Descriptor decode(uint64_t bits, const char* name, const Place& place) {
  const auto encoded = [&](int shift) {
    return static_cast<uint32_t>(bits >> shift & 0x3FFF) << 4;
  };
  constexpr uint64_t reserved =
      ~(0x3FFFull | 0x3FFFull << 16 | 0x3FFFull << 32 | 7ull << 49 | 3ull << 62);
  if (bits & reserved) {
    fail(Fault::wgmma, "wgmma", place, "%s's descriptor %016llx has reserved bits set", name,
         static_cast<unsigned long long>(bits));
  }
  if (bits >> 49 & 7) {
    fail(Fault::wgmma, "wgmma", place,
         "%s's descriptor has a base offset: tiles here start at "
         "their swizzle pattern's",
         name);
  }
  constexpr Swizzle layouts[4] = {Swizzle::none, Swizzle::b128, Swizzle::b64, Swizzle::b32};
  const Descriptor result{encoded(0), encoded(16), encoded(32), layouts[bits >> 62]};
  const uint32_t row = swizzle_row_bytes(result.swizzle);
  if (result.swizzle != Swizzle::none && result.start % (8 * row) + tile_bytes > row) {
    fail(Fault::wgmma, "wgmma", place,
         "%s starts at shared offset %d, not in the first row of its %u-byte swizzle pattern", name,
         static_cast<int>(result.start) - static_cast<int>(SharedMemory::window_base), 8 * row);
  }
  return result;
}

// Where 16 bytes of a K-major tile lie: `chunk` 0 or 1 of row `row`.
uint32_t chunk_address(const Descriptor& tile, int row, int chunk) {
  const auto r = static_cast<uint32_t>(row), c = static_cast<uint32_t>(chunk);
  if (tile.swizzle == Swizzle::none) {
    return tile.start + r / 8 * tile.stride_bytes + c * tile.leading_bytes + r % 8 * 16;
  }
  const uint32_t linear =
      tile.start + r / 8 * tile.stride_bytes + r % 8 * swizzle_row_bytes(tile.swizzle) + c * 16;
  return swizzled(linear, tile.swizzle);
}

int16_t extended(uint8_t byte, bool is_signed) {
  return is_signed ? static_cast<int8_t>(byte) : byte;
}

void gather_tile(uint64_t descriptor, const char* name, int rows, bool is_signed,
                 const Place& place, int16_t* to) {
  const Descriptor tile = decode(descriptor, name, place);
  for (int row = 0; row < rows; row++) {
    for (int chunk = 0; chunk < 2; chunk++) {
      const uint8_t* bytes =
          shared_pointer(chunk_address(tile, row, chunk), 16, 16, "wgmma", place);
      for (int i = 0; i < 16; i++) to[row * 32 + chunk * 16 + i] = extended(bytes[i], is_signed);
    }
  }
}

// A in registers: warp w holds rows 16 w to 16 w + 15 in the fragment layout of mma.m16n8k32.
void gather_registers(const std::array<std::array<uint32_t, 4>, 128>& registers, bool is_signed,
                      int16_t* to) {
  for (int thread = 0; thread < 128; thread++) {
    for (int index = 0; index < 4; index++) {
      const int row = thread / 32 * 16 + thread % 32 / 4 + index % 2 * 8;
      const int column = index / 2 * 16 + thread % 4 * 4;
      const uint32_t word = registers[static_cast<size_t>(thread)][static_cast<size_t>(index)];
      for (int i = 0; i < 4; i++) {
        to[row * 32 + column + i] = extended(static_cast<uint8_t>(word >> 8 * i), is_signed);
      }
    }
  }
}

// Which element of the 64 x columns tile is in register `index` of `thread`.
int tile_element(int thread, int index, int columns) {
  const int row = thread / 32 * 16 + thread % 32 / 4 + index / 2 % 2 * 8;
  return row * columns + index / 4 * 8 + thread % 4 * 2 + index % 2;
}

void check_uniform(const std::array<WgmmaOperand*, 128>& operands, const Place& place) {
  const WgmmaOperand& first = *operands[0];
  for (const WgmmaOperand* operand : operands) {
    const bool same_a = first.a_registers ? operand->a_registers != nullptr
                                          : operand->a_descriptor == first.a_descriptor;
    if (!same_a || operand->b_descriptor != first.b_descriptor ||
        operand->accumulate != first.accumulate) {
      fail(Fault::wgmma, "wgmma", place,
           "descriptors and scale-d must be the same in the whole warpgroup; thread %td differs "
           "from thread 0",
           std::find(operands.begin(), operands.end(), operand) - operands.begin());
    }
  }
}

}  // namespace

void WgmmaQueue::reset() {
  pending_.clear();
  committed_groups_ = 0;
  fenced_ = false;
}

std::shared_ptr<WgmmaQueue::Accumulators> WgmmaQueue::acquire(
    const std::array<WgmmaOperand*, 128>& operands, int columns, const Place& place) {
  std::array<int32_t*, 128> registers;
  for (size_t i = 0; i < 128; i++) registers[i] = operands[i]->accumulators;
  for (const auto& operation : pending_) {
    if (operation->accumulators->registers[0] != registers[0]) continue;
    if (operation->accumulators->count != columns / 2) {
      fail(Fault::wgmma, "wgmma", place,
           "accumulators of a pending wgmma of another shape are used: wait first");
    }
    return operation->accumulators;
  }
  auto fresh = std::make_shared<Accumulators>();
  fresh->registers = registers;
  fresh->count = columns / 2;
  const auto count = static_cast<size_t>(fresh->count);
  fresh->values.resize(128 * count);
  for (size_t thread = 0; thread < 128; thread++) {
    std::copy_n(registers[thread], count,
                fresh->values.begin() + static_cast<ptrdiff_t>(thread * count));
    std::fill_n(registers[thread], count, poison_register);
  }
  return fresh;
}

void WgmmaQueue::issue(WgmmaTypes types, int columns,
                       const std::array<WgmmaOperand*, 128>& operands, const Place& place) {
  check_uniform(operands, place);
  if (!fenced_) {
    fail(Fault::wgmma, "wgmma", place,
         "no wgmma.fence since the registers could last be accessed (kernel start or a wait)");
  }
  auto accumulators = acquire(operands, columns, place);
  pending_.push_back(std::make_unique<Operation>());
  Operation* operation = pending_.back().get();
  operation->types = types;
  operation->a_descriptor = operands[0]->a_descriptor;
  operation->b_descriptor = operands[0]->b_descriptor;
  operation->a_in_registers = operands[0]->a_registers != nullptr;
  operation->accumulate = operands[0]->accumulate;
  if (operation->a_in_registers) {
    for (size_t i = 0; i < 128; i++) {
      std::copy_n(operands[i]->a_registers, 4, operation->a_registers[i].begin());
    }
  }
  operation->accumulators = std::move(accumulators);
  operation->accumulators->operations++;
  operation->group = committed_groups_;
  operation->place = place;
  current_block().stats.wgmma++;
  if (!current_block().options.late) execute(*operation);
}

void WgmmaQueue::execute(const Operation& operation) {
  Accumulators& accumulators = *operation.accumulators;
  const int columns = accumulators.count * 2;
  const bool a_signed = operation.types != WgmmaTypes::u8_s8;
  if (!scratch_) scratch_ = std::make_unique<Scratch>();
  auto* a = scratch_->a;
  auto* b = scratch_->b;
  auto* tile = scratch_->tile;
  if (operation.a_in_registers) {
    gather_registers(operation.a_registers, a_signed, a);
  } else {
    gather_tile(operation.a_descriptor, "A", tile_rows, a_signed, operation.place, a);
  }
  gather_tile(operation.b_descriptor, "B", columns, true, operation.place, b);
  const auto for_each_register = [&](auto visit) {
    for (int thread = 0; thread < 128; thread++) {
      for (int i = 0; i < accumulators.count; i++) {
        visit(accumulators.values[static_cast<size_t>(thread * accumulators.count + i)],
              tile[tile_element(thread, i, columns)]);
      }
    }
  };
  const bool accumulate = operation.accumulate;
  for_each_register([&](int32_t& value, int32_t& element) { element = accumulate ? value : 0; });
  multiply_accumulate(a, b, tile, tile_rows, columns, 32);
  for_each_register([](int32_t& value, int32_t& element) { value = element; });
}

void WgmmaQueue::release(Accumulators& accumulators, const Place& place) {
  const auto count = static_cast<size_t>(accumulators.count);
  for (size_t thread = 0; thread < 128; thread++) {
    int32_t* registers = accumulators.registers[thread];
    if (std::any_of(registers, registers + count, [](int32_t v) { return v != poison_register; })) {
      fail(Fault::wgmma, "wgmma.wait_group", place,
           "thread %zu of the warpgroup wrote accumulators while a wgmma was in flight", thread);
    }
    std::copy_n(accumulators.values.begin() + static_cast<ptrdiff_t>(thread * count), count,
                registers);
  }
}

void WgmmaQueue::wait(int allowed_groups, const Place& place) {
  const auto allowed = static_cast<uint64_t>(allowed_groups);
  const uint64_t first_unfinished = committed_groups_ > allowed ? committed_groups_ - allowed : 0;
  while (!pending_.empty() && pending_.front()->group < first_unfinished) {
    Operation& operation = *pending_.front();
    if (current_block().options.late) execute(operation);
    if (--operation.accumulators->operations == 0) release(*operation.accumulators, place);
    pending_.erase(pending_.begin());
  }
  fenced_ = false;
}

namespace {

WgmmaQueue& current_queue() {
  return current_block().warpgroups[static_cast<size_t>(current_thread().linear / 128)].wgmma;
}

}  // namespace

void wgmma_fence(const Place& place) {
  int nothing = 0;
  warpgroup_collective({"wgmma.fence", true}, place, nothing,
                       [](const auto&) { current_queue().fence(); });
}

void wgmma_commit(const Place& place) {
  int nothing = 0;
  warpgroup_collective({"wgmma.commit_group", true}, place, nothing,
                       [](const auto&) { current_queue().commit(); });
}

void wgmma_wait(int allowed_groups, const Place& place) {
  warpgroup_collective({"wgmma.wait_group", true}, place, allowed_groups,
                       [&](const auto&) { current_queue().wait(allowed_groups, place); });
}

void wgmma_multiply(WgmmaTypes types, int columns, WgmmaOperand operand, const Place& place) {
  warpgroup_collective({"wgmma", true}, place, operand, [&](const auto& operands) {
    current_queue().issue(types, columns, operands, place);
  });
}

}  // namespace paro::emulator
