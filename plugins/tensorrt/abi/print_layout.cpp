// Prints everything of TensorRT's interface that the plugin's binary depends on, one fact per line:
// sizes, offsets, enumerators, and the slots and signatures of virtual functions. check.py compiles
// this file with the project's declarations and with real headers, and compares the lines.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>

#ifdef PARO_TRT_ABI_SHIM
#include "../autoreg/registry.h"
#include "nv_infer_runtime.h"
#else
#include <NvInferRuntime.h>
#endif

namespace {

using namespace nvinfer1;  // NOLINT: every name below is TensorRT's

// The type as the compiler spells it, between "[with T = " and "]".
template <class T>
std::string_view spelling() {
  const std::string_view text = __PRETTY_FUNCTION__;
  const size_t begin = text.find("T = ") + 4;
  return text.substr(begin, text.find(';', begin) - begin);
}

// In the Itanium C++ ABI a pointer to a virtual member function holds 1 + 8 * slot.
template <class Method>
int slot_of(Method method) {
  static_assert(sizeof method == 2 * sizeof(intptr_t));
  intptr_t words[2];
  std::memcpy(words, &method, sizeof words);
  return words[0] % 8 == 1 ? static_cast<int>(words[0] / 8) : -1;
}

template <class T>
void print_class(const char* name) {
  std::printf("%s: size %zu, align %zu\n", name, sizeof(T), alignof(T));
}

template <class Method>
void print_method(const char* name, Method method) {
  const std::string_view signature = spelling<Method>();
  std::printf("%s: slot %d, %.*s\n", name, slot_of(method), static_cast<int>(signature.size()),
              signature.data());
}

#define CLASS(name) print_class<name>(#name)
#define MEMBER(owner, name)                                                           \
  std::printf("%s::%s: offset %zu, size %zu\n", #owner, #name, offsetof(owner, name), \
              sizeof(owner::name))
#define METHOD(owner, name) print_method(#owner "::" #name, &owner::name)
#define ENUMERATOR(owner, name)                                                        \
  std::printf("%s::%s = %d, size %zu\n", #owner, #name, static_cast<int>(owner::name), \
              sizeof(owner))

void print_data() {
  CLASS(InterfaceInfo);
  MEMBER(InterfaceInfo, kind);
  MEMBER(InterfaceInfo, major);
  MEMBER(InterfaceInfo, minor);
  CLASS(Dims);
  MEMBER(Dims, nbDims);
  MEMBER(Dims, d);
  CLASS(PluginTensorDesc);
  MEMBER(PluginTensorDesc, dims);
  MEMBER(PluginTensorDesc, type);
  MEMBER(PluginTensorDesc, format);
  MEMBER(PluginTensorDesc, scale);
  CLASS(DynamicPluginTensorDesc);
  MEMBER(DynamicPluginTensorDesc, desc);
  MEMBER(DynamicPluginTensorDesc, min);
  MEMBER(DynamicPluginTensorDesc, max);
  MEMBER(DynamicPluginTensorDesc, opt);
  CLASS(PluginField);
  MEMBER(PluginField, name);
  MEMBER(PluginField, data);
  MEMBER(PluginField, type);
  MEMBER(PluginField, length);
  CLASS(PluginFieldCollection);
  MEMBER(PluginFieldCollection, nbFields);
  MEMBER(PluginFieldCollection, fields);
  CLASS(DimsExprs);
  MEMBER(DimsExprs, nbDims);
  MEMBER(DimsExprs, d);
  CLASS(cudaStream_t);
}

void print_enumerators() {
  ENUMERATOR(DataType, kFLOAT);
  ENUMERATOR(DataType, kHALF);
  ENUMERATOR(DataType, kINT8);
  ENUMERATOR(DataType, kINT32);
  ENUMERATOR(DataType, kBOOL);
  ENUMERATOR(DataType, kUINT8);
  ENUMERATOR(DataType, kFP8);
  ENUMERATOR(DataType, kBF16);
  ENUMERATOR(DataType, kINT64);
  ENUMERATOR(DataType, kINT4);
  ENUMERATOR(TensorFormat, kLINEAR);
  ENUMERATOR(TensorFormat, kCHW2);
  ENUMERATOR(TensorFormat, kHWC8);
  ENUMERATOR(TensorFormat, kCHW4);
  ENUMERATOR(TensorFormat, kCHW16);
  ENUMERATOR(TensorFormat, kCHW32);
  ENUMERATOR(TensorFormat, kDHWC8);
  ENUMERATOR(TensorFormat, kCDHW32);
  ENUMERATOR(TensorFormat, kHWC);
  ENUMERATOR(TensorFormat, kDLA_LINEAR);
  ENUMERATOR(TensorFormat, kDLA_HWC4);
  ENUMERATOR(TensorFormat, kHWC16);
  ENUMERATOR(TensorFormat, kDHWC);
  ENUMERATOR(PluginFieldType, kFLOAT16);
  ENUMERATOR(PluginFieldType, kFLOAT32);
  ENUMERATOR(PluginFieldType, kFLOAT64);
  ENUMERATOR(PluginFieldType, kINT8);
  ENUMERATOR(PluginFieldType, kINT16);
  ENUMERATOR(PluginFieldType, kINT32);
  ENUMERATOR(PluginFieldType, kCHAR);
  ENUMERATOR(PluginFieldType, kDIMS);
  ENUMERATOR(PluginFieldType, kUNKNOWN);
  ENUMERATOR(PluginFieldType, kBF16);
  ENUMERATOR(PluginFieldType, kINT64);
  ENUMERATOR(PluginFieldType, kFP8);
  ENUMERATOR(TensorRTPhase, kBUILD);
  ENUMERATOR(TensorRTPhase, kRUNTIME);
  ENUMERATOR(PluginCapabilityType, kCORE);
  ENUMERATOR(PluginCapabilityType, kBUILD);
  ENUMERATOR(PluginCapabilityType, kRUNTIME);
  ENUMERATOR(DimensionOperation, kSUM);
  ENUMERATOR(DimensionOperation, kPROD);
  ENUMERATOR(DimensionOperation, kMAX);
  ENUMERATOR(DimensionOperation, kMIN);
  ENUMERATOR(DimensionOperation, kSUB);
  ENUMERATOR(DimensionOperation, kEQUAL);
  ENUMERATOR(DimensionOperation, kLESS);
  ENUMERATOR(DimensionOperation, kFLOOR_DIV);
  ENUMERATOR(DimensionOperation, kCEIL_DIV);
  ENUMERATOR(APILanguage, kCPP);
}

void print_interfaces() {
  CLASS(IVersionedInterface);
  METHOD(IVersionedInterface, getAPILanguage);
  METHOD(IVersionedInterface, getInterfaceInfo);
  CLASS(IPluginCapability);
  CLASS(IPluginCreatorInterface);
  CLASS(IPluginV3);
  METHOD(IPluginV3, getCapabilityInterface);
  METHOD(IPluginV3, clone);
  CLASS(v_1_0::IPluginV3OneCore);
  METHOD(IPluginV3OneCore, getPluginName);
  METHOD(IPluginV3OneCore, getPluginVersion);
  METHOD(IPluginV3OneCore, getPluginNamespace);
  CLASS(v_1_0::IPluginV3OneBuild);
  METHOD(IPluginV3OneBuild, configurePlugin);
  METHOD(IPluginV3OneBuild, getOutputDataTypes);
  METHOD(IPluginV3OneBuild, getOutputShapes);
  METHOD(IPluginV3OneBuild, supportsFormatCombination);
  METHOD(IPluginV3OneBuild, getNbOutputs);
  METHOD(IPluginV3OneBuild, getWorkspaceSize);
  METHOD(IPluginV3OneBuild, getValidTactics);
  METHOD(IPluginV3OneBuild, getNbTactics);
  METHOD(IPluginV3OneBuild, getTimingCacheID);
  METHOD(IPluginV3OneBuild, getFormatCombinationLimit);
  METHOD(IPluginV3OneBuild, getMetadataString);
  CLASS(v_1_0::IPluginV3OneRuntime);
  METHOD(IPluginV3OneRuntime, setTactic);
  METHOD(IPluginV3OneRuntime, onShapeChange);
  METHOD(IPluginV3OneRuntime, enqueue);
  METHOD(IPluginV3OneRuntime, attachToContext);
  METHOD(IPluginV3OneRuntime, getFieldsToSerialize);
  CLASS(v_1_0::IPluginCreatorV3One);
  METHOD(IPluginCreatorV3One, createPlugin);
  METHOD(IPluginCreatorV3One, getFieldNames);
  METHOD(IPluginCreatorV3One, getPluginName);
  METHOD(IPluginCreatorV3One, getPluginVersion);
  METHOD(IPluginCreatorV3One, getPluginNamespace);
}

// The kind and version that an interface reports when no subclass overrides them.
template <class Interface>
void print_info(const char* name) {
  // The method reads no member, so any storage can serve as the object.
  alignas(Interface) static const char storage[sizeof(Interface)] = {};
  const auto& self = *reinterpret_cast<const Interface*>(storage);
  const InterfaceInfo info = self.Interface::getInterfaceInfo();
  std::printf("%s: kind '%s' %d.%d\n", name, info.kind, info.major, info.minor);
}

void print_kinds() {
  print_info<IPluginV3>("IPluginV3");
  print_info<IPluginV3OneCore>("IPluginV3OneCore");
  print_info<v_1_0::IPluginV3OneBuild>("IPluginV3OneBuild");
  print_info<IPluginV3OneRuntime>("IPluginV3OneRuntime");
  print_info<IPluginCreatorV3One>("IPluginCreatorV3One");
}

void print_expressions() {
  CLASS(IDimensionExpr);
  METHOD(apiv::VDimensionExpr, isConstant);
  METHOD(apiv::VDimensionExpr, getConstantValue);
  METHOD(apiv::VDimensionExpr, isSizeTensor);
  CLASS(IExprBuilder);
  METHOD(apiv::VExprBuilder, constant);
  METHOD(apiv::VExprBuilder, operation);
  METHOD(apiv::VExprBuilder, declareSizeTensor);
}

void print_registry_line(int major, int register_creator, int get_all_creators) {
  std::printf("IPluginRegistry of TensorRT %d: registerCreator slot %d, getAllCreators slot %d\n",
              major, register_creator, get_all_creators);
}

// The registry is the one interface whose slots moved. This project knows several layouts of it; a
// header knows only its own.
void print_registry() {
#ifdef PARO_TRT_ABI_SHIM
  constexpr int kVersionsOfMajor = 10000;
  for (const paro::trt::RegistrySlots& known : paro::trt::kRegistrySlots) {
    const int major = known.first_version / kVersionsOfMajor;
    // TensorRT for RTX counts from 1 and has the slots of the TensorRT that it is made of.
    if (major < 10) continue;
    print_registry_line(major, known.register_creator, known.get_all_creators);
  }
#else
  using RegisterCreator =
      bool (IPluginRegistry::*)(IPluginCreatorInterface&, const AsciiChar*) noexcept;
  print_registry_line(NV_TENSORRT_MAJOR,
                      slot_of(static_cast<RegisterCreator>(&IPluginRegistry::registerCreator)),
                      slot_of(&IPluginRegistry::getAllCreators));
#endif
}

}  // namespace

int main() {
  print_data();
  print_enumerators();
  print_interfaces();
  print_kinds();
  print_expressions();
  print_registry();
}
