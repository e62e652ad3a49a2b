// wgmma: asynchronous 64 x N x 32 products of a warpgroup, 8-bit operands (sm_90a).
// PTX ISA, "Asynchronous warpgroup level matrix instructions".
//
// Operands in shared memory are K-major: 32 bytes of K in every row, described by a 64-bit
// descriptor. Accumulators of thread t, with w = t / 32 and l = t % 32: d[i] is row
// 16 w + l / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (l % 4) + i % 2. A in registers has the layout
// of mma.m16n8k32 for the warp's 16 rows.
#pragma once

#include "ptx/platform.cuh"
#include "ptx/swizzle.h"

#if PARO_HAS_WGMMA

namespace paro::ptx {

// Descriptor of a K-major tile with 8-row groups of `stride_bytes` each. Adding 2 moves it 32
// bytes along K, within the swizzle pattern. `leading_bytes`: without a swizzle, from one 16-byte
// column of 8 rows to the next; swizzled layouts ignore it.
PTX_FN uint64_t wgmma_descriptor(uint32_t tile, Swizzle swizzle, uint32_t stride_bytes,
                                 uint32_t leading_bytes = 16) {
  const uint32_t pattern = static_cast<uint32_t>(swizzle);
  const uint64_t layout = pattern == 0 ? 0 : 4 - pattern;  // 1: 128 bytes, 2: 64, 3: 32
  return static_cast<uint64_t>((tile & 0x3FFFF) >> 4) |
         static_cast<uint64_t>((leading_bytes & 0x3FFFF) >> 4) << 16 |
         static_cast<uint64_t>((stride_bytes & 0x3FFFF) >> 4) << 32 | layout << 62;
}

// The same for a dense swizzled tile: rows as long as the pattern, one after the other.
PTX_FN uint64_t wgmma_descriptor(uint32_t tile, Swizzle swizzle) {
  return wgmma_descriptor(tile, swizzle, 8 * (16u << static_cast<uint32_t>(swizzle)));
}

// The descriptor of a tile that lies `bytes`, a multiple of 16, further on. Shared memory ends far
// below what the address field holds, so nothing is carried out of it.
PTX_FN uint64_t wgmma_advance(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

// Before the first wgmma, and whenever a thread may have touched registers that one uses.
PTX_FN void wgmma_fence(Place place = Place::current()) {
#if PARO_EMULATED
  emulator::wgmma_fence(place);
#else
  (void)place;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

PTX_FN void wgmma_commit(Place place = Place::current()) {
#if PARO_EMULATED
  emulator::wgmma_commit(place);
#else
  (void)place;
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Until at most AllowedGroups of the warpgroup's groups are unfinished. Accumulators, A registers
// and operands in shared memory must not be touched before.
template <int AllowedGroups>
PTX_FN void wgmma_wait(Place place = Place::current()) {
#if PARO_EMULATED
  emulator::wgmma_wait(AllowedGroups, place);
#else
  (void)place;
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(AllowedGroups) : "memory");
#endif
}

// After a wait, once for each array that it was for: the compiler sees no link between the wait and
// registers that a wgmma filled, and could read them before.
template <class Register, int Count>
PTX_FN void wgmma_settle(Register (&registers)[Count]) {
#if PARO_EMULATED
  (void)registers;
#else
#pragma unroll
  for (int i = 0; i < Count; i++) asm volatile("" : "+r"(registers[i])::"memory");
#endif
}

#if PARO_EMULATED

// d = A B (+ d where `accumulate`), both signed and in shared memory.
template <int N>
PTX_FN void wgmma_s8_s8(int32_t (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate,
                        Place place = Place::current()) {
  static_assert(N == 64 || N == 128 || N == 256, "the device side has these shapes");
  emulator::wgmma_multiply(emulator::WgmmaTypes::s8_s8, N, {d, a, nullptr, b, accumulate}, place);
}

// The same with A in registers, unsigned (u8 x s8) or signed.
template <int N>
PTX_FN void wgmma_u8_s8(int32_t (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate,
                        Place place = Place::current()) {
  static_assert(N == 64 || N == 128 || N == 256, "the device side has these shapes");
  emulator::wgmma_multiply(emulator::WgmmaTypes::u8_s8, N, {d, 0, a, b, accumulate}, place);
}

template <int N>
PTX_FN void wgmma_s8_s8(int32_t (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate,
                        Place place = Place::current()) {
  static_assert(N == 64 || N == 128 || N == 256, "the device side has these shapes");
  emulator::wgmma_multiply(emulator::WgmmaTypes::s8_s8, N, {d, 0, a, b, accumulate}, place);
}

#else

// One asm statement names all accumulators: the lists below are its operands and their numbers.
#define PARO_D4(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define PARO_D16(i) PARO_D4(i), PARO_D4(i + 4), PARO_D4(i + 8), PARO_D4(i + 12)
#define PARO_D32 PARO_D16(0), PARO_D16(16)
#define PARO_D64 PARO_D32, PARO_D16(32), PARO_D16(48)
#define PARO_D128 PARO_D64, PARO_D16(64), PARO_D16(80), PARO_D16(96), PARO_D16(112)
#define PARO_N32                                                         \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PARO_N64                                                                     \
  PARO_N32                                                                           \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PARO_N128                                                                                \
  PARO_N64                                                                                       \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"             \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"             \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, " \
  "%127"

// `accumulate` becomes the scale-d predicate.
#define PARO_WGMMA_SS(shape, count, A, B, P)                                            \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" P                                   \
               ", 0;\n"                                                                 \
               "wgmma.mma_async.sync.aligned.m64" shape "k32.s32.s8.s8 {" PARO_N##count \
               "}, %" A ", %" B ", p;\n}"                                               \
               : PARO_D##count                                                          \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)))
#define PARO_WGMMA_RS(shape, count, types, A0, A1, A2, A3, B, P)                            \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" P                                       \
               ", 0;\n"                                                                     \
               "wgmma.mma_async.sync.aligned.m64" shape "k32.s32." types " {" PARO_N##count \
               "}, {%" A0 ", %" A1 ", %" A2 ", %" A3 "}, %" B ", p;\n}"                     \
               : PARO_D##count                                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                        \
                 "r"(static_cast<int>(accumulate)))
#define PARO_WGMMA_RS_SHAPES(types)                                               \
  static_assert(N == 64 || N == 128 || N == 256, "shapes that kernels here use"); \
  if constexpr (N == 64) {                                                        \
    PARO_WGMMA_RS("n64", 32, types, "32", "33", "34", "35", "36", "37");          \
  } else if constexpr (N == 128) {                                                \
    PARO_WGMMA_RS("n128", 64, types, "64", "65", "66", "67", "68", "69");         \
  } else {                                                                        \
    PARO_WGMMA_RS("n256", 128, types, "128", "129", "130", "131", "132", "133");  \
  }

// d = A B (+ d where `accumulate`), both signed and in shared memory.
template <int N>
PTX_FN void wgmma_s8_s8(int32_t (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate,
                        Place = Place::current()) {
  static_assert(N == 64 || N == 128 || N == 256, "shapes that kernels here use");
  if constexpr (N == 64) {
    PARO_WGMMA_SS("n64", 32, "32", "33", "34");
  } else if constexpr (N == 128) {
    PARO_WGMMA_SS("n128", 64, "64", "65", "66");
  } else {
    PARO_WGMMA_SS("n256", 128, "128", "129", "130");
  }
}

// The same with A in registers, unsigned (u8 x s8) or signed.
template <int N>
PTX_FN void wgmma_u8_s8(int32_t (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate,
                        Place = Place::current()) {
  PARO_WGMMA_RS_SHAPES("u8.s8")
}

template <int N>
PTX_FN void wgmma_s8_s8(int32_t (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate,
                        Place = Place::current()) {
  PARO_WGMMA_RS_SHAPES("s8.s8")
}

#undef PARO_D4
#undef PARO_D16
#undef PARO_D32
#undef PARO_D64
#undef PARO_D128
#undef PARO_N32
#undef PARO_N64
#undef PARO_N128
#undef PARO_WGMMA_SS
#undef PARO_WGMMA_RS
#undef PARO_WGMMA_RS_SHAPES

#endif  // PARO_EMULATED

}  // namespace paro::ptx

#endif  // PARO_HAS_WGMMA
