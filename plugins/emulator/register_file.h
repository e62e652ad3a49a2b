// setmaxnreg: the registers of a block and who holds them.
#pragma once

#include "emulator/diagnosis.h"

#include <vector>

namespace paro::emulator {

class RegisterFile {
 public:
  static constexpr int total = 65536;
  static constexpr int granularity = 8;

  // Every warpgroup starts with `each_thread` registers a thread; what is left over is not the
  // block's to give.
  RegisterFile(int threads, int each_thread);
  static int default_for(int threads);

  void increase(int warpgroup, int registers, const Place& place);
  void decrease(int warpgroup, int registers, const Place& place);

 private:
  std::vector<int> held_;  // a thread's registers, for each warpgroup
  int free_ = 0;
  std::vector<Thread*> waiting_;
};

// setmaxnreg.inc and .dec of the running thread's warpgroup.
void increase_registers(int registers, const Place& place);
void decrease_registers(int registers, const Place& place);

}  // namespace paro::emulator
