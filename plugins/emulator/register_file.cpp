#include "emulator/register_file.h"

#include <algorithm>

#include "emulator/block.h"
#include "emulator/collectives.h"

namespace paro::emulator {
namespace {

void check_count(const char* operation, int registers, const Place& place) {
  if (registers < 24 || registers > 256 || registers % RegisterFile::granularity != 0) {
    fail(Fault::registers, operation, place,
         "%d registers: a multiple of 8 from 24 to 256 is required", registers);
  }
}

// All threads of a warpgroup must give the same count. The last to arrive applies it.
template <class Apply>
void change_registers(Operation operation, int registers, const Place& place, Apply apply) {
  check_count(operation.name, registers, place);
  warpgroup_collective(operation, place, registers, [&](const std::array<int*, 128>& counts) {
    for (const int* count : counts) {
      if (*count != registers) {
        fail(Fault::registers, operation.name, place, "the warpgroup names both %d and %d",
             registers, *count);
      }
    }
    apply(current_thread().linear / 128);
  });
}

}  // namespace

RegisterFile::RegisterFile(int threads, int each_thread)
    : held_(static_cast<size_t>((threads + 127) / 128), each_thread) {}

int RegisterFile::default_for(int threads) {
  return std::min(total / threads / granularity * granularity, 256);
}

void RegisterFile::increase(int warpgroup, int registers, const Place& place) {
  int& held = held_[static_cast<size_t>(warpgroup)];
  if (registers < held) {
    fail(Fault::registers, "setmaxnreg.inc", place, "%d is below the %d the thread has", registers,
         held);
  }
  const int wanted = (registers - held) * 128;
  while (free_ < wanted) {
    waiting_.push_back(&current_thread());
    current_block().wait({"setmaxnreg.inc", "%u registers short of a warpgroup's %u",
                          static_cast<unsigned>(wanted - free_),
                          static_cast<unsigned>(registers * 128), place});
  }
  free_ -= wanted;
  held = registers;
}

void RegisterFile::decrease(int warpgroup, int registers, const Place& place) {
  int& held = held_[static_cast<size_t>(warpgroup)];
  if (registers > held) {
    fail(Fault::registers, "setmaxnreg.dec", place, "%d is above the %d the thread has", registers,
         held);
  }
  free_ += (held - registers) * 128;
  held = registers;
  for (Thread* thread : waiting_) current_block().wake(*thread);
  waiting_.clear();
}

void increase_registers(int registers, const Place& place) {
  change_registers({"setmaxnreg.inc", true}, registers, place, [&](int warpgroup) {
    current_block().registers.increase(warpgroup, registers, place);
  });
}

void decrease_registers(int registers, const Place& place) {
  change_registers({"setmaxnreg.dec", true}, registers, place, [&](int warpgroup) {
    current_block().registers.decrease(warpgroup, registers, place);
  });
}

}  // namespace paro::emulator
