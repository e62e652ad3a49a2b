#include "formats.h"

namespace paro::trt::host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr int32_t kTypes = 12;    // the number that TensorRT 11.1 has
constexpr int32_t kFormats = 13;  // the number that TensorRT 11.1 has
constexpr int32_t kUndecided = -77;

class Search {
 public:
  Search(nvinfer1::IPluginV3OneBuild& build, int32_t inputs, int32_t outputs)
      : build_(build), inputs_(inputs), outputs_(outputs) {
    tensors_.resize(static_cast<size_t>(inputs + outputs));
    for (DynamicPluginTensorDesc& tensor : tensors_) set(tensor, kUndecided, kUndecided);
  }

  void decide(size_t position) {
    if (static_cast<int32_t>(found.size()) >= build_.getFormatCombinationLimit()) return;
    if (position == tensors_.size()) {
      std::vector<TensorKind>& combination = found.emplace_back();
      for (const auto& [desc, min, max, opt] : tensors_) {
        combination.push_back({desc.type, desc.format});
      }
      return;
    }
    for (int32_t type = 0; type < kTypes; ++type) {
      for (int32_t format = 0; format < kFormats; ++format) {
        set(tensors_[position], type, format);
        if (build_.supportsFormatCombination(static_cast<int32_t>(position), tensors_.data(),
                                             inputs_, outputs_)) {
          decide(position + 1);
        }
      }
    }
    set(tensors_[position], kUndecided, kUndecided);
  }

  std::vector<std::vector<TensorKind>> found;

 private:
  static void set(DynamicPluginTensorDesc& tensor, int32_t type, int32_t format) {
    tensor.desc.type = static_cast<DataType>(type);
    tensor.desc.format = static_cast<TensorFormat>(format);
  }

  nvinfer1::IPluginV3OneBuild& build_;
  int32_t inputs_;
  int32_t outputs_;
  std::vector<DynamicPluginTensorDesc> tensors_;
};

}  // namespace

std::vector<std::vector<TensorKind>> supported_combinations(nvinfer1::IPluginV3OneBuild& build,
                                                            int32_t inputs, int32_t outputs) {
  Search search(build, inputs, outputs);
  search.decide(0);
  return search.found;
}

}  // namespace paro::trt::host
