#include "emulator/stats.h"

#include <mutex>

namespace paro::emulator {
namespace {

std::mutex total_lock;
Stats total;

}  // namespace

Stats& Stats::operator+=(const Stats& other) {
  thread_switches += other.thread_switches;
  async_copies += other.async_copies;
  ldmatrix += other.ldmatrix;
  ldmatrix_conflicts += other.ldmatrix_conflicts;
  mma += other.mma;
  wgmma += other.wgmma;
  bulk_loads += other.bulk_loads;
  return *this;
}

Stats stats() {
  const std::lock_guard hold(total_lock);
  return total;
}

void reset_stats() {
  const std::lock_guard hold(total_lock);
  total = {};
}

void add_to_stats(const Stats& block) {
  const std::lock_guard hold(total_lock);
  total += block;
}

}  // namespace paro::emulator
