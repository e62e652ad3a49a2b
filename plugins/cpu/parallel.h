// Hands out items to threads one by one. Threads live for one call, so that there is nothing to
// break at fork and nothing that callers on different threads would share.
#pragma once

#include <atomic>
#include <barrier>
#include <thread>
#include <vector>

namespace paro::cpu {

// A queue of `count` items shared by all threads of a team.
class Queue {
 public:
  void reset(int64_t count) {
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
  }

  // Takes the next item. Returns -1 if none is left.
  int64_t take() {
    const int64_t item = next_.fetch_add(1, std::memory_order_relaxed);
    return item < count_ ? item : -1;
  }

 private:
  std::atomic<int64_t> next_{0};
  int64_t count_ = 0;
};

// Runs work(thread) on `threads` threads; the caller is thread 0. Throws std::system_error if the
// system cannot start enough threads. The threads that did start then see `cancelled` set.
template <class Work>
void run_team(int threads, std::atomic<bool>& cancelled, std::atomic<bool>& started, Work work) {
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(threads - 1));
  const auto release = [&](bool cancel) {
    cancelled.store(cancel);
    started.store(true);
    started.notify_all();
  };
  try {
    for (int t = 1; t < threads; ++t) {
      others.emplace_back([&started, &cancelled, &work, t] {
        started.wait(false);
        if (!cancelled.load()) work(t);
      });
    }
  } catch (...) {
    release(true);
    for (std::thread& other : others) other.join();
    throw;
  }
  release(false);
  work(0);
  for (std::thread& other : others) other.join();
}

}  // namespace paro::cpu
