// setmaxnreg: the registers of a block, and which warpgroup holds them.
#pragma once

#include "emulator/diagnosis.h"

#include <vector>

namespace paro::emulator {

class RegisterFile {
 public:
  static constexpr int total = 65536;
  static constexpr int granularity = 8;

  // Every warpgroup starts with `each_thread` registers per thread. The block cannot use the rest.
  RegisterFile(int threads, int each_thread);
  static int default_for(int threads);

  void increase(int warpgroup, int registers, const Place& place);
  void decrease(int warpgroup, int registers, const Place& place);

 private:
  std::vector<int> held_;  // registers per thread, for each warpgroup
  int free_ = 0;
  std::vector<Thread*> waiting_;
};

// setmaxnreg.inc and .dec for the running thread's warpgroup.
void increase_registers(int registers, const Place& place);
void decrease_registers(int registers, const Place& place);

}  // namespace paro::emulator
