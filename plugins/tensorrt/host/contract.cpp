#include <cstdio>

#include "commands.h"
#include "formats.h"

namespace paro::trt::host {
namespace {

void print_fields(const char* name, const nvinfer1::PluginFieldCollection& fields) {
  std::printf("  \"%s\": [", name);
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const nvinfer1::PluginField& field = fields.fields[i];
    std::printf("%s{\"name\": \"%s\", \"type\": %d, \"length\": %d}", i ? ", " : "", field.name,
                static_cast<int>(field.type), field.length);
  }
  std::printf("],\n");
}

void print_combinations(const std::vector<std::vector<TensorKind>>& combinations) {
  std::printf("  \"combinations\": [");
  for (size_t i = 0; i < combinations.size(); ++i) {
    std::printf("%s[", i ? ", " : "");
    for (size_t tensor = 0; tensor < combinations[i].size(); ++tensor) {
      const TensorKind& kind = combinations[i][tensor];
      std::printf("%s{\"type\": %d, \"format\": %d}", tensor ? ", " : "",
                  static_cast<int>(kind.type), static_cast<int>(kind.format));
    }
    std::printf("]");
  }
  std::printf("]\n");
}

int print_creator(nvinfer1::IPluginCreatorV3One& creator, int32_t inputs) {
  const std::vector<Field> fields = {integer_field("block_q", 64), integer_field("block_k", 64),
                                     integer_field("qk_bits", 16), integer_field("pv_bits", 16)};
  const Plugin plugin = create(creator, fields, nvinfer1::TensorRTPhase::kBUILD);
  if (plugin == nullptr) return 1;
  std::printf("{\n  \"name\": \"%s\", \"version\": \"%s\", \"namespace\": \"%s\",\n",
              creator.getPluginName(), creator.getPluginVersion(), creator.getPluginNamespace());
  print_fields("fields", *creator.getFieldNames());
  print_fields("stored", *runtime_of(plugin).getFieldsToSerialize());
  std::printf("  \"timing_cache_id\": \"%s\",\n", build_of(plugin).getTimingCacheID());
  print_combinations(supported_combinations(build_of(plugin), inputs, 1));
  std::printf("}\n");
  return 0;
}

}  // namespace

int print_contract(const PluginLibrary& library) {
  std::printf("[\n");
  if (const int status = print_creator(library.creator("1"), 10)) return status;
  std::printf(",\n");
  if (const int status = print_creator(library.creator("2"), 14)) return status;
  std::printf("]\n");
  return 0;
}

}  // namespace paro::trt::host
