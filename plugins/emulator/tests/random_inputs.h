// Pseudo-random inputs from one generator with a fixed seed, so that every build has the same ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace check {

inline std::mt19937& random() {
  static std::mt19937 generator(20261123);
  return generator;
}

inline uint32_t random_word() { return static_cast<uint32_t>(random()()); }

template <class T>
std::vector<T> random_integers(size_t count, int low, int high) {
  std::uniform_int_distribution<int> draw(low, high);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(draw(random()));
  return values;
}

inline std::vector<uint32_t> random_words(size_t count) {
  std::vector<uint32_t> words(count);
  for (uint32_t& word : words) word = random_word();
  return words;
}

}  // namespace check
