// Runs every conformance kernel on fixed pseudo-random inputs and writes the results to a file.
#pragma once

#include <limits>

#include "emulator/conformance/device_buffer.h"
#include "emulator/conformance/dump.h"
#include "emulator/conformance/kernels.cuh"
#include "emulator/tests/pipelined_attention.cuh"

namespace conformance {

// Runs the checks and records the failures of one run.
class Session {
 public:
  explicit Session(const char* path) : dump(path) {}

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), const LaunchShape& shape,
              const Arguments&... arguments) {
    DeviceSet none;
    expect(allow_all_shared_bytes(kernel, none) == LaunchStatus::ok);
    expect(paro::launch(kernel, shape, arguments...) == LaunchStatus::ok);
  }
  void expect(bool condition) {
    if (!condition && !failed) std::printf("failed: %s\n", last_launch_message());
    failed |= !condition;
  }
  template <class T>
  void save(const std::string& name, DeviceBuffer<T>& buffer, double tolerance = 0) {
    const std::vector<T> values = buffer.read();
    expect(buffer.ok());
    dump.section(name, values, tolerance);
  }

  Dump dump;
  bool failed = false;
};

inline void product_sections(Session& session) {
  for (int round = 0; round < 8; round++) {
    DeviceBuffer<uint32_t> in(check::random_words(32 * mma_inputs));
    DeviceBuffer<int32_t> integers(std::vector<int32_t>(32 * mma_integers));
    DeviceBuffer<float> floats(std::vector<float>(32 * mma_floats));
    session.launch(matrix_products, {1, 32}, in.get(), integers.get(), floats.get());
    session.save("mma_integer_" + std::to_string(round), integers);
    // Tensor cores add with fewer bits than FP32 has.
    session.save("mma_float_" + std::to_string(round), floats, 2e-5);
    session.launch(started_products, {1, 32}, in.get(), integers.get(), floats.get());
    session.save("mma_from_integer_" + std::to_string(round), integers);
    session.save("mma_from_float_" + std::to_string(round), floats, 2e-5);
  }
}

inline void scalar_sections(Session& session) {
  DeviceBuffer<uint32_t> rows(check::random_words(1024));
  const auto* in = reinterpret_cast<const uint4*>(rows.get());
  DeviceBuffer<uint32_t> loaded(std::vector<uint32_t>(32 * load_words));
  session.launch(shared_loads, {1, 32, 4480}, in, loaded.get());
  session.save("cp_async_ldmatrix", loaded);
  DeviceBuffer<uint32_t> copied(std::vector<uint32_t>(4 * 128));
  session.launch(copies_with_policy, {1, 128}, in, copied.get());
  session.save("copies_with_policy", copied);

  std::vector<float> numbers(128 * scalar_inputs);
  for (size_t i = 0; i < numbers.size(); i++) {
    const auto integer = static_cast<float>(check::random_word() % 400);
    numbers[i] = i % 5 == 0 ? integer - 50.5f : integer * 0.7f - 30.0f;
  }
  numbers[3] = 1e9f;
  numbers[6] = -1e9f;
  DeviceBuffer<float> scalar_in(numbers), powers(std::vector<float>(128));
  DeviceBuffer<float> logarithms(std::vector<float>(128));
  DeviceBuffer<uint32_t> words(std::vector<uint32_t>(128 * scalar_words));
  session.launch(scalars, {1, 128}, scalar_in.get(), words.get(), powers.get(), logarithms.get());
  session.save("conversions_shuffles_votes", words);
  session.save("exp2", powers, 1e-6);
  session.save("log2", logarithms, 1e-6);

  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float specials[] = {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, 5.5f};
  for (size_t i = 0; i < numbers.size(); i++) {
    numbers[i] = specials[i / scalar_inputs >> 2 * (i % scalar_inputs) & 3];
  }
  DeviceBuffer<float> special_in(numbers);
  DeviceBuffer<uint32_t> packed(std::vector<uint32_t>(128 * special_words));
  session.launch(special_values, {1, 128}, special_in.get(), packed.get());
  session.save("special_values", packed);
}

template <int N, ProductForm form, Swizzle swizzle>
void wgmma_section(Session& session, const char* name) {
  constexpr uint32_t depth = 16u << static_cast<uint32_t>(swizzle);
  DeviceBuffer<uint8_t> a(check::random_integers<uint8_t>(64 * depth, 0, 255));
  DeviceBuffer<uint8_t> b(check::random_integers<uint8_t>(N * depth, 0, 255));
  DeviceBuffer<int32_t> out(check::random_integers<int32_t>(64 * N, -1000000, 1000000));
  session.launch(warpgroup_product<N, form, swizzle>, {1, 128, (64 + N) * depth}, a.get(), b.get(),
                 out.get());
  session.save("wgmma_n" + std::to_string(N) + "_k" + std::to_string(depth) + "_" + name, out);
}

template <int N, Swizzle swizzle>
void wgmma_sections(Session& session) {
  wgmma_section<N, ProductForm::shared, swizzle>(session, "shared");
  wgmma_section<N, ProductForm::signed_registers, swizzle>(session, "signed_registers");
  wgmma_section<N, ProductForm::unsigned_registers, swizzle>(session, "unsigned_registers");
}

inline void hopper_sections(Session& session) {
  constexpr uint32_t bytes = 528;
  DeviceBuffer<uint32_t> in(check::random_words(3 * bytes / 4));
  DeviceBuffer<uint32_t> image(std::vector<uint32_t>(3 * bytes / 4));
  const auto* from = reinterpret_cast<const uint8_t*>(in.get());
  session.launch(bulk_copies, {1, 64, bytes + 16}, from, bytes, image.get());
  session.save("bulk_load", image);
  wgmma_sections<64, Swizzle::b32>(session);
  wgmma_sections<64, Swizzle::b128>(session);
  wgmma_sections<128, Swizzle::b64>(session);
  wgmma_sections<128, Swizzle::b128>(session);
  wgmma_sections<256, Swizzle::b64>(session);
  DeviceBuffer<uint32_t> roles(std::vector<uint32_t>(384));
  session.launch(warpgroup_roles, {1, 384, 512}, roles.get());
  session.save("warpgroup_roles", roles);
}

// Runs the unmutated kernel of the mutation tests from start to end.
inline void attention_sections(Session& session) {
  using namespace mutants::pipelined;
  using mutants::block_keys;
  const mutants::Problem problem(6 * block_keys + 19, 64 + 37, {6, 0, 3, 5, 2, 1});
  DeviceBuffer<int8_t> query(problem.query), key(problem.key), value(problem.value_transposed);
  DeviceBuffer<int> blocks(problem.blocks), row_order(problem.row_order);
  DeviceBuffer<int32_t> output(problem.output), row_sum(problem.row_sum);
  const int block_count = static_cast<int>(problem.blocks.size());
  const Parameters p{query.get(),     key.get(),         value.get(),   blocks.get(),
                     row_order.get(), output.get(),      row_sum.get(), block_count,
                     problem.tokens,  problem.query_rows};
  session.launch(pipelined_attention<Bug::none>, {2, threads, sizeof(SharedTiles)}, p);
  session.save("pipelined_output", output);
  session.save("pipelined_row_sum", row_sum);
}

// Whether this GPU has TMA and wgmma. Other GPUs omit the sections for them.
inline bool has_hopper() {
#if PARO_EMULATED
  return true;
#else
  cudaDeviceProp properties;
  return succeeded(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties") &&
         properties.major == 9;
#endif
}

inline int run(int count, char** arguments) {
  if (count != 2) {
    std::printf("usage: %s DUMP\n", arguments[0]);
    return 2;
  }
  const bool hopper = has_hopper();
  Session session(arguments[1]);
  product_sections(session);
  scalar_sections(session);
  if (hopper) hopper_sections(session);
  attention_sections(session);
  session.expect(session.dump.close());
  std::printf("%s %s\n", session.failed ? "FAILED, incomplete" : "wrote", arguments[1]);
  return session.failed;
}

}  // namespace conformance
