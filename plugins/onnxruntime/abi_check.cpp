// Compiles only if ort_abi.h agrees with the real header. Adds no code to the library.
#include <onnxruntime_c_api.h>

#include <type_traits>

#include "ort_abi.h"

namespace paro::ort {
namespace {

// Two types agree if both are pointers (the names of their targets differ) or have the same size.
template <class Declared, class Real>
constexpr bool kSameKind = [] {
  if constexpr (std::is_void_v<Declared> || std::is_void_v<Real>) {
    return std::is_void_v<Declared> && std::is_void_v<Real>;
  } else {
    return std::is_pointer_v<Declared> == std::is_pointer_v<Real> &&
           sizeof(Declared) == sizeof(Real);
  }
}();

template <class Declared, class Real>
constexpr bool kSameForm = false;

template <class DeclaredResult, class... Declared, class Result, class... Real>
  requires(sizeof...(Declared) == sizeof...(Real))
constexpr bool kSameForm<DeclaredResult (*)(Declared...), Result (*)(Real...)> =
    kSameKind<DeclaredResult, Result> && (kSameKind<Declared, Real> && ...);

template <class Declared, class Result, class... Real>
constexpr bool kSameForm<Declared, Result (*)(Real...) noexcept> =
    kSameForm<Declared, Result (*)(Real...)>;

static_assert(kDeviceApiVersion <= ORT_API_VERSION);
static_assert(kFail == int{ORT_FAIL});
static_assert(kInvalidArgument == int{ORT_INVALID_ARGUMENT});
static_assert(kNotImplemented == int{ORT_NOT_IMPLEMENTED});
static_assert(kFloat == int{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT});
static_assert(kInt32 == int{ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32});
static_assert(kFloat16 == int{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16});
static_assert(kBFloat16 == int{ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16});
static_assert(kRequired == int{INPUT_OUTPUT_REQUIRED});
static_assert(kDefaultMemory == int{OrtMemTypeDefault});
static_assert(sizeof(ElementType) == sizeof(ONNXTensorElementDataType));
static_assert(sizeof(ErrorCode) == sizeof(OrtErrorCode));
static_assert(sizeof(Characteristic) == sizeof(OrtCustomOpInputOutputCharacteristic));
static_assert(sizeof(MemoryType) == sizeof(OrtMemType));

#define PARO_SAME(declared, real, member)                                       \
  static_assert(offsetof(declared, member) == offsetof(real, member), #member); \
  static_assert(kSameForm<decltype(declared::member), decltype(real::member)>, #member)

PARO_SAME(ApiBase, OrtApiBase, GetApi);
PARO_SAME(ApiBase, OrtApiBase, GetVersionString);

PARO_SAME(Api, OrtApi, CreateStatus);
PARO_SAME(Api, OrtApi, CreateCustomOpDomain);
PARO_SAME(Api, OrtApi, CustomOpDomain_Add);
PARO_SAME(Api, OrtApi, AddCustomOpDomain);
PARO_SAME(Api, OrtApi, GetTensorMutableData);
PARO_SAME(Api, OrtApi, GetDimensionsCount);
PARO_SAME(Api, OrtApi, GetDimensions);
PARO_SAME(Api, OrtApi, GetTensorTypeAndShape);
PARO_SAME(Api, OrtApi, KernelInfoGetAttribute_float);
PARO_SAME(Api, OrtApi, KernelInfoGetAttribute_int64);
PARO_SAME(Api, OrtApi, KernelInfoGetAttribute_string);
PARO_SAME(Api, OrtApi, KernelContext_GetInputCount);
PARO_SAME(Api, OrtApi, KernelContext_GetInput);
PARO_SAME(Api, OrtApi, KernelContext_GetOutput);
PARO_SAME(Api, OrtApi, ReleaseStatus);
PARO_SAME(Api, OrtApi, ReleaseTensorTypeAndShapeInfo);
PARO_SAME(Api, OrtApi, ReleaseCustomOpDomain);
PARO_SAME(Api, OrtApi, ReleaseAllocator);
PARO_SAME(Api, OrtApi, KernelContext_GetGPUComputeStream);
PARO_SAME(Api, OrtApi, HasSessionConfigEntry);
PARO_SAME(Api, OrtApi, GetSessionConfigEntry);
PARO_SAME(Api, OrtApi, ShapeInferContext_GetInputTypeShape);
PARO_SAME(Api, OrtApi, ShapeInferContext_SetOutputTypeShape);
PARO_SAME(Api, OrtApi, KernelContext_GetScratchBuffer);
PARO_SAME(Api, OrtApi, KernelInfoGetAllocator);

static_assert(offsetof(Allocator, version) == offsetof(OrtAllocator, version));
PARO_SAME(Allocator, OrtAllocator, Alloc);
PARO_SAME(Allocator, OrtAllocator, Free);
PARO_SAME(Allocator, OrtAllocator, Info);

static_assert(offsetof(CustomOp, version) == offsetof(OrtCustomOp, version));
PARO_SAME(CustomOp, OrtCustomOp, CreateKernel);
PARO_SAME(CustomOp, OrtCustomOp, GetName);
PARO_SAME(CustomOp, OrtCustomOp, GetExecutionProviderType);
PARO_SAME(CustomOp, OrtCustomOp, GetInputType);
PARO_SAME(CustomOp, OrtCustomOp, GetInputTypeCount);
PARO_SAME(CustomOp, OrtCustomOp, GetOutputType);
PARO_SAME(CustomOp, OrtCustomOp, GetOutputTypeCount);
PARO_SAME(CustomOp, OrtCustomOp, KernelCompute);
PARO_SAME(CustomOp, OrtCustomOp, KernelDestroy);
PARO_SAME(CustomOp, OrtCustomOp, GetInputCharacteristic);
PARO_SAME(CustomOp, OrtCustomOp, GetOutputCharacteristic);
PARO_SAME(CustomOp, OrtCustomOp, GetInputMemoryType);
PARO_SAME(CustomOp, OrtCustomOp, GetVariadicInputMinArity);
PARO_SAME(CustomOp, OrtCustomOp, GetVariadicInputHomogeneity);
PARO_SAME(CustomOp, OrtCustomOp, GetVariadicOutputMinArity);
PARO_SAME(CustomOp, OrtCustomOp, GetVariadicOutputHomogeneity);
PARO_SAME(CustomOp, OrtCustomOp, CreateKernelV2);
PARO_SAME(CustomOp, OrtCustomOp, KernelComputeV2);
PARO_SAME(CustomOp, OrtCustomOp, InferOutputShapeFn);
PARO_SAME(CustomOp, OrtCustomOp, GetStartVersion);
PARO_SAME(CustomOp, OrtCustomOp, GetEndVersion);
PARO_SAME(CustomOp, OrtCustomOp, GetMayInplace);
PARO_SAME(CustomOp, OrtCustomOp, ReleaseMayInplace);
PARO_SAME(CustomOp, OrtCustomOp, GetAliasMap);
PARO_SAME(CustomOp, OrtCustomOp, ReleaseAliasMap);
#undef PARO_SAME

}  // namespace
}  // namespace paro::ort
