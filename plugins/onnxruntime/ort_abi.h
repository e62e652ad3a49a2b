// The part of ONNX Runtime's C interface that a custom op needs. It is declared here because no
// package carries the header. ONNX Runtime only appends to this interface: a released slot keeps
// its place and signature. abi_check.cpp compares every declaration with the real header if CMake
// finds one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace paro::ort {

// The oldest version of the interface that has everything below. ONNX Runtime 1.17 introduced it.
constexpr uint32_t kApiVersion = 17;

// The same for a provider of its own memory, which needs the entries from `GetScratchBuffer` on.
constexpr uint32_t kDeviceApiVersion = 18;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9 };

enum ElementType : int { kFloat = 1, kInt32 = 6, kFloat16 = 10, kBFloat16 = 16 };

enum Characteristic : int { kRequired = 0, kOptional = 1 };

enum MemoryType : int { kDefaultMemory = 0 };

// Opaque types. A null Status means success.
struct Status;
struct Value;
struct TensorInfo;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct ShapeContext;
struct MemoryInfo;
struct CustomOp;

// A provider's memory. Later entries are not used here.
struct Allocator {
  uint32_t version;
  void* (*Alloc)(Allocator* self, size_t size);
  void (*Free)(Allocator* self, void* memory);
  const MemoryInfo* (*Info)(const Allocator* self);
};

// The function table. The entries `slots_*` are not used here.
struct Api {
  Status* (*CreateStatus)(ErrorCode code, const char* message);
  void* slots_1[25];
  Status* (*CreateCustomOpDomain)(const char* domain, CustomOpDomain** out);
  Status* (*CustomOpDomain_Add)(CustomOpDomain* domain, const CustomOp* op);
  Status* (*AddCustomOpDomain)(SessionOptions* options, CustomOpDomain* domain);
  void* slots_29[22];
  Status* (*GetTensorMutableData)(Value* value, void** out);
  void* slots_52[9];
  Status* (*GetDimensionsCount)(const TensorInfo* info, size_t* out);
  Status* (*GetDimensions)(const TensorInfo* info, int64_t* sizes, size_t count);
  void* slots_63[2];
  Status* (*GetTensorTypeAndShape)(const Value* value, TensorInfo** out);
  void* slots_66[19];
  Status* (*KernelInfoGetAttribute_float)(const KernelInfo* info, const char* name, float* out);
  Status* (*KernelInfoGetAttribute_int64)(const KernelInfo* info, const char* name, int64_t* out);
  Status* (*KernelInfoGetAttribute_string)(const KernelInfo* info, const char* name, char* out,
                                           size_t* size);
  Status* (*KernelContext_GetInputCount)(const KernelContext* context, size_t* out);
  void* slot_89;
  Status* (*KernelContext_GetInput)(const KernelContext* context, size_t index, const Value** out);
  Status* (*KernelContext_GetOutput)(KernelContext* context, size_t index, const int64_t* sizes,
                                     size_t count, Value** out);
  void* slot_92;
  void (*ReleaseStatus)(Status* status);
  void* slots_94[5];
  void (*ReleaseTensorTypeAndShapeInfo)(TensorInfo* info);
  void* slot_100;
  void (*ReleaseCustomOpDomain)(CustomOpDomain* domain);
  void* slots_102[30];
  void (*ReleaseAllocator)(Allocator* allocator);
  void* slots_133[60];
  // Sets `out` to null on a provider without streams.
  Status* (*KernelContext_GetGPUComputeStream)(const KernelContext* context, void** out);
  void* slots_194[43];
  Status* (*HasSessionConfigEntry)(const SessionOptions* options, const char* key, int* out);
  Status* (*GetSessionConfigEntry)(const SessionOptions* options, const char* key, char* value,
                                   size_t* size);
  void* slots_239[29];
  Status* (*ShapeInferContext_GetInputTypeShape)(const ShapeContext* context, size_t index,
                                                 TensorInfo** out);
  void* slot_269;
  Status* (*ShapeInferContext_SetOutputTypeShape)(const ShapeContext* context, size_t index,
                                                  const TensorInfo* info);
  void* slots_271[6];
  // From here on since version 18. The context must have a stream, to which the memory belongs:
  // once freed, it is lent to the same stream, and to others after they have waited for it.
  Status* (*KernelContext_GetScratchBuffer)(const KernelContext* context, const MemoryInfo* memory,
                                            size_t bytes, void** out);
  Status* (*KernelInfoGetAllocator)(const KernelInfo* info, MemoryType type, Allocator** out);
};

struct ApiBase {
  // Returns null if the runtime is older than `version`.
  const Api* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// Describes one overload of an op. Only versions newer than kApiVersion read the entries from
// GetMayInplace on, which stay null.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp* op, const Api* api, const KernelInfo* info);
  const char* (*GetName)(const CustomOp* op);
  const char* (*GetExecutionProviderType)(const CustomOp* op);
  ElementType (*GetInputType)(const CustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp* op);
  ElementType (*GetOutputType)(const CustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp* op);
  void (*KernelCompute)(void* kernel, KernelContext* context);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const CustomOp* op, size_t index);
  Characteristic (*GetOutputCharacteristic)(const CustomOp* op, size_t index);
  MemoryType (*GetInputMemoryType)(const CustomOp* op, size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp* op);
  int (*GetVariadicInputHomogeneity)(const CustomOp* op);
  int (*GetVariadicOutputMinArity)(const CustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const CustomOp* op);
  Status* (*CreateKernelV2)(const CustomOp* op, const Api* api, const KernelInfo* info,
                            void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext* context);
  Status* (*InferOutputShapeFn)(const CustomOp* op, ShapeContext* context);
  int (*GetStartVersion)(const CustomOp* op);
  int (*GetEndVersion)(const CustomOp* op);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

#define PARO_ORT_SLOT(name, slot) \
  static_assert(offsetof(Api, name) == (slot) * sizeof(void*), #name " is slot " #slot)
PARO_ORT_SLOT(CreateStatus, 0);
PARO_ORT_SLOT(CreateCustomOpDomain, 26);
PARO_ORT_SLOT(CustomOpDomain_Add, 27);
PARO_ORT_SLOT(AddCustomOpDomain, 28);
PARO_ORT_SLOT(GetTensorMutableData, 51);
PARO_ORT_SLOT(GetDimensionsCount, 61);
PARO_ORT_SLOT(GetDimensions, 62);
PARO_ORT_SLOT(GetTensorTypeAndShape, 65);
PARO_ORT_SLOT(KernelInfoGetAttribute_float, 85);
PARO_ORT_SLOT(KernelInfoGetAttribute_int64, 86);
PARO_ORT_SLOT(KernelInfoGetAttribute_string, 87);
PARO_ORT_SLOT(KernelContext_GetInputCount, 88);
PARO_ORT_SLOT(KernelContext_GetInput, 90);
PARO_ORT_SLOT(KernelContext_GetOutput, 91);
PARO_ORT_SLOT(ReleaseStatus, 93);
PARO_ORT_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
PARO_ORT_SLOT(ReleaseCustomOpDomain, 101);
PARO_ORT_SLOT(ReleaseAllocator, 132);
PARO_ORT_SLOT(KernelContext_GetGPUComputeStream, 193);
PARO_ORT_SLOT(HasSessionConfigEntry, 237);
PARO_ORT_SLOT(GetSessionConfigEntry, 238);
PARO_ORT_SLOT(ShapeInferContext_GetInputTypeShape, 268);
PARO_ORT_SLOT(ShapeInferContext_SetOutputTypeShape, 270);
PARO_ORT_SLOT(KernelContext_GetScratchBuffer, 277);
PARO_ORT_SLOT(KernelInfoGetAllocator, 278);
#undef PARO_ORT_SLOT

}  // namespace paro::ort
