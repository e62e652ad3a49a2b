// Tensor maps for TMA: made on the host, passed to a kernel as `const __grid_constant__ TensorMap`.
#pragma once

#include <cstdint>
#include <cstring>

#include "ptx/swizzle.h"

#if defined(PARO_EMULATED) && PARO_EMULATED
#include "emulator/tma.h"
#else
#include <cuda.h>
#include <cuda_runtime.h>
#endif

namespace paro {

// A CUtensorMap, or what stands for it in the emulator.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// A matrix in global memory and the box that one copy moves. Index 0 is the contiguous dimension.
struct TensorTile {
  const void* data;        // 16-byte aligned
  uint64_t extent[2];      // elements; reads outside give zeros, writes outside are dropped
  uint64_t row_bytes;      // a multiple of 16
  uint32_t box[2];         // elements, at most 256 each
  uint32_t element_bytes;  // 1, 2 or 4
  Swizzle swizzle;         // box rows are as long as its pattern
};

enum class TensorMapStatus { ok, refused, no_driver };

#if defined(PARO_EMULATED) && PARO_EMULATED

inline TensorMapStatus encode_tensor_map(const TensorTile& tile, TensorMap* map) {
  const emulator::TensorMap2D content{
      .data = tile.data,
      .extent = {tile.extent[0], tile.extent[1]},
      .row_bytes = tile.row_bytes,
      .box = {tile.box[0], tile.box[1]},
      .element_bytes = tile.element_bytes,
      .swizzle = static_cast<emulator::Swizzle>(tile.swizzle),
  };
  static_assert(sizeof content <= sizeof(TensorMap));
  if (emulator::tensor_map_error(content) != nullptr) return TensorMapStatus::refused;
  *map = {};
  std::memcpy(map, &content, sizeof content);
  return TensorMapStatus::ok;
}

#else

// Through the driver entry point, so that nothing links to libcuda.
inline TensorMapStatus encode_tensor_map(const TensorTile& tile, TensorMap* map) {
  static_assert(sizeof(CUtensorMap) == sizeof(TensorMap));
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                       &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    return TensorMapStatus::no_driver;
  }
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  const CUtensorMapDataType type = tile.element_bytes == 1   ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : tile.element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16
                                                             : CU_TENSOR_MAP_DATA_TYPE_UINT32;
  constexpr CUtensorMapSwizzle swizzles[4] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                              CU_TENSOR_MAP_SWIZZLE_64B,
                                              CU_TENSOR_MAP_SWIZZLE_128B};
  const cuuint64_t extent[2] = {tile.extent[0], tile.extent[1]}, stride[1] = {tile.row_bytes};
  const cuuint32_t box[2] = {tile.box[0], tile.box[1]}, step[2] = {1, 1};
  CUtensorMap encoded;
  const CUresult result =
      encode(&encoded, type, 2, const_cast<void*>(tile.data), extent, stride, box, step,
             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzles[static_cast<uint32_t>(tile.swizzle)],
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return TensorMapStatus::refused;
  std::memcpy(map, &encoded, sizeof encoded);
  return TensorMapStatus::ok;
}

#endif

}  // namespace paro
