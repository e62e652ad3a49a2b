// The computation of the mutant kernels: attention with integers only, so that every result is
// exact. P = clamp((Q K^T >> 9) + 40, 0, 255) and O = P V, both over a list of 64-key blocks.
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>
#include <vector>

#include "emulator/tests/random_inputs.h"
#include "ptx/platform.cuh"

namespace mutants {

constexpr int head_dim = 64, block_keys = 64;

// The position of key j of a 32-key group in V's storage. In this order, the accumulator layout of
// S is the operand layout of P.
constexpr int key_position(int j) {
  const int key = j % 32;
  return j / 32 * 32 + key / 16 * 16 + key % 8 / 2 * 4 + key / 8 % 2 * 2 + key % 2;
}

__host__ __device__ inline uint32_t probability(int32_t score) {
  const int32_t code = (score >> 9) + 40;
  return static_cast<uint32_t>(code < 0 ? 0 : code > 255 ? 255 : code);
}

struct Problem {
  int tokens, query_rows;
  std::vector<int> blocks;                // attended key blocks, any order
  std::vector<int> row_order;             // result of query row r goes to row_order[r]
  std::vector<int8_t> query, key, value;  // [rows][head_dim]
  std::vector<int8_t> value_transposed;   // [key block][head_dim][block_keys], key_position order
  std::vector<int32_t> output;            // [query_rows][head_dim]
  std::vector<int32_t> row_sum;           // [query_rows]

  Problem(int tokens_, int query_rows_, std::vector<int> blocks_)
      : tokens(tokens_), query_rows(query_rows_), blocks(std::move(blocks_)) {
    const auto padded = static_cast<size_t>((tokens + block_keys - 1) / block_keys * block_keys);
    const auto width = static_cast<size_t>(head_dim);
    query = check::random_integers<int8_t>(static_cast<size_t>(query_rows) * width, -127, 127);
    key = check::random_integers<int8_t>(padded * width, -127, 127);
    value = check::random_integers<int8_t>(padded * width, -127, 127);
    value_transposed.resize(value.size());
    for (size_t token = 0; token < padded; token++) {
      for (size_t d = 0; d < width; d++) {
        const size_t block = token / block_keys;
        const auto position =
            static_cast<size_t>(key_position(static_cast<int>(token % block_keys)));
        value_transposed[(block * width + d) * block_keys + position] = value[token * width + d];
      }
    }
    row_order.resize(static_cast<size_t>(query_rows));
    for (int row = 0; row < query_rows; row++) row_order[static_cast<size_t>(row)] = row;
    std::shuffle(row_order.begin(), row_order.end(), check::random());
    clear();
  }

  void clear() {
    output.assign(static_cast<size_t>(query_rows * head_dim), INT32_MIN);
    row_sum.assign(static_cast<size_t>(query_rows), INT32_MIN);
  }

  bool is_correct() const {
    for (int row = 0; row < query_rows; row++) {
      std::vector<int32_t> expected(head_dim, 0);
      int32_t sum = 0;
      for (const int block : blocks) {
        for (int token = block * block_keys; token < std::min(tokens, (block + 1) * block_keys);
             token++) {
          int32_t score = 0;
          for (int d = 0; d < head_dim; d++) score += at(query, row, d) * at(key, token, d);
          const auto p = static_cast<int32_t>(probability(score));
          sum += p;
          for (int d = 0; d < head_dim; d++)
            expected[static_cast<size_t>(d)] += p * at(value, token, d);
        }
      }
      const int target = row_order[static_cast<size_t>(row)];
      if (row_sum[static_cast<size_t>(target)] != sum) return false;
      if (!std::equal(expected.begin(), expected.end(), output.begin() + target * head_dim))
        return false;
    }
    return true;
  }

 private:
  static int at(const std::vector<int8_t>& matrix, int row, int column) {
    return matrix[static_cast<size_t>(row * head_dim + column)];
  }
};

}  // namespace mutants
