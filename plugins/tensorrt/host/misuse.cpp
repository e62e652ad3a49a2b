#include <algorithm>
#include <limits>

#include "checks.h"
#include "commands.h"
#include "execution.h"
#include "expressions.h"

namespace paro::trt::host {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

using Fields = std::vector<Field>;

Field& named(Fields& fields, const std::string& name) {
  return *std::find_if(fields.begin(), fields.end(),
                       [&](const Field& field) { return field.name == name; });
}

class Misuse {
 public:
  Misuse(const PluginLibrary& library, const Case& content, Memory& memory)
      : creator_(library.creator(content.version)), content_(content), memory_(memory) {}

  int run() {
    refuse_fields();
    refuse_collections();
    refuse_stored_fields();
    const Plugin plugin = create(creator_, content_.fields, TensorRTPhase::kBUILD);
    refuse_capability(plugin);
    refuse_types(build_of(plugin));
    refuse_shapes(plugin);
    refuse_profiles(build_of(plugin));
    refuse_enqueue(plugin);
    accept_empty_batch(plugin);
    accept_wrong_order();
    return checks_.report("misuse");
  }

 private:
  // Expects the call to fail and to print one line that contains every one of `words`.
  void refuses(const std::string& what, const std::vector<std::string>& words,
               const std::function<bool()>& call) {
    bool refused = false;
    const std::string said = errors_of([&] { refused = !call(); });
    checks_.expect(refused, what + ": refused");
    const bool one_line =
        said.starts_with("[paro] error: PAROAttention: ") && said.find('\n') == said.size() - 1;
    checks_.expect(one_line, what + ": one line, got '" + said + "'");
    for (const std::string& word : words) {
      checks_.expect(said.find(word) != std::string::npos,
                     what + ": expected '" + word + "' in: " + said);
    }
  }

  void refuses_fields(const std::string& what, const std::vector<std::string>& words,
                      const std::function<void(Fields&)>& change,
                      TensorRTPhase phase = TensorRTPhase::kBUILD) {
    Fields fields = content_.fields;
    change(fields);
    refuses(what, words, [&] { return create(creator_, fields, phase) != nullptr; });
  }

  void refuse_fields() {
    const auto set = [](const std::string& name, int32_t value) {
      return [=](Fields& fields) { named(fields, name) = integer_field(name, value); };
    };
    refuses_fields("a block size of 32", {"block_q", "64 or 128", "32"}, set("block_q", 32));
    refuses_fields("a block size of 0", {"block_k", "64 or 128", "0"}, set("block_k", 0));
    refuses_fields("3 bits", {"qk_bits", "16, 8 or 4", "3"}, set("qk_bits", 3));
    refuses_fields("-8 bits", {"pv_bits", "16, 8 or 4", "-8"}, set("pv_bits", -8));
    refuses_fields("pooling of 2", {"pool_dropped", "0 or 1", "2"}, set("pool_dropped", 2));
    if (content_.version == "1") {
      refuses_fields("a field of version 2", {"routing", "expected scale"},
                     [](Fields& fields) { fields.push_back(integer_field("routing", 1)); });
    } else {
      refuses_fields("routing of 2", {"routing", "0 or 1", "2"}, set("routing", 2));
      refuses_fields("smoothing of 2", {"smoothing", "0 or 1", "2"}, set("smoothing", 2));
    }
    for (const float scale :
         {-1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      refuses_fields("a scale of " + std::to_string(scale), {"scale", "finite"},
                     [=](Fields& fields) { named(fields, "scale") = float_field("scale", scale); });
    }
    refuses_fields("a float block size", {"block_q", "INT32", "FLOAT32"}, [](Fields& fields) {
      named(fields, "block_q") = float_field("block_q", 64.0f);
    });
    refuses_fields("an integer scale", {"scale", "FLOAT32", "INT32"},
                   [](Fields& fields) { named(fields, "scale") = integer_field("scale", 1); });
    for (const PluginFieldType type :
         {PluginFieldType::kINT64, PluginFieldType::kCHAR, static_cast<PluginFieldType>(99)}) {
      refuses_fields("another type of qk_bits", {"qk_bits", "INT32"},
                     [=](Fields& fields) { named(fields, "qk_bits").type = type; });
    }
    for (const int32_t length : {0, 2, -1}) {
      refuses_fields("a length of " + std::to_string(length),
                     {"pv_bits", "one INT32", std::to_string(length)},
                     [=](Fields& fields) { named(fields, "pv_bits").length = length; });
    }
    refuses_fields("an unknown attribute", {"window", "block_q"},
                   [](Fields& fields) { fields.push_back(integer_field("window", 1)); });
    refuses_fields("an attribute of engines in a node", {"kernel_library"},
                   [](Fields& fields) { fields.push_back(integer_field("kernel_library", 1)); });
    refuses_fields("an attribute twice", {"block_q", "again"},
                   [](Fields& fields) { fields.push_back(integer_field("block_q", 64)); });
    for (const char* name : {"block_q", "block_k", "qk_bits", "pv_bits"}) {
      refuses_fields(std::string("no ") + name, {name, "none"}, [=](Fields& fields) {
        fields.erase(fields.begin() + (&named(fields, name) - fields.data()));
      });
    }
  }

  void refuse_collections() {
    const auto create_from = [&](const nvinfer1::PluginFieldCollection* fields) {
      return Plugin(creator_.createPlugin(nullptr, fields, TensorRTPhase::kBUILD)) != nullptr;
    };
    refuses("no collection", {"fields", "NULL"}, [&] { return create_from(nullptr); });
    nvinfer1::PluginFieldCollection fields{4, nullptr};
    refuses("no fields in it", {"fields", "NULL"}, [&] { return create_from(&fields); });
    fields.nbFields = -1;
    refuses("a negative number of them", {"fields"}, [&] { return create_from(&fields); });
    const PluginField nameless(nullptr, nullptr, PluginFieldType::kINT32, 1);
    fields = {1, &nameless};
    refuses("a field without a name", {"fields[0]", "name"}, [&] { return create_from(&fields); });
    const int32_t value = 64;
    const PluginField valueless[] = {{"block_q", nullptr, PluginFieldType::kINT32, 1},
                                     {"block_k", &value, PluginFieldType::kINT32, 1},
                                     {"qk_bits", &value, PluginFieldType::kINT32, 1},
                                     {"pv_bits", &value, PluginFieldType::kINT32, 1}};
    fields = {4, valueless};
    refuses("a field without data", {"block_q", "NULL"}, [&] { return create_from(&fields); });
  }

  void refuse_stored_fields() {
    const auto text = [](const std::string& value) {
      const auto* const bytes = reinterpret_cast<const std::byte*>(value.data());
      return Field{"kernel_library",
                   PluginFieldType::kCHAR,
                   static_cast<int32_t>(value.size()),
                   {bytes, bytes + value.size()}};
    };
    for (const std::string& other :
         {std::string("paro-other 9.9.9"), std::string("two\nlines\033[2J"), std::string()}) {
      refuses_fields(
          "an engine of other kernels", {"engine", "build the engine again"},
          [&](Fields& fields) { fields.push_back(text(other)); }, TensorRTPhase::kRUNTIME);
    }
    refuses_fields(
        "a kernel library of another type", {"kernel_library", "text"},
        [](Fields& fields) { fields.push_back(integer_field("kernel_library", 1)); },
        TensorRTPhase::kRUNTIME);
    refuses_fields(
        "a corrupted engine", {"block_k", "got 4000"},
        [](Fields& fields) { named(fields, "block_k") = integer_field("block_k", 4000); },
        TensorRTPhase::kRUNTIME);
  }

  void refuse_capability(const Plugin& plugin) {
    refuses("an unknown capability", {"capability", "9"}, [&] {
      const auto type = static_cast<nvinfer1::PluginCapabilityType>(9);
      return plugin->getCapabilityInterface(type) != nullptr;
    });
  }

  void refuse_types(const nvinfer1::IPluginV3OneBuild& build) {
    std::vector<DataType> types;
    for (const Tensor& tensor : content_.inputs) types.push_back(tensor.type);
    DataType output;
    const auto accepts = [&](const std::vector<DataType>& inputs) {
      return build.getOutputDataTypes(&output, 1, inputs.data(),
                                      static_cast<int32_t>(inputs.size())) == 0;
    };
    const auto changed = [&](size_t index, DataType type) {
      std::vector<DataType> other = types;
      other[index] = type;
      return other;
    };
    refuses("FP32", {"query", "FP32", "export the model in fp16 or bf16"},
            [&] { return accepts(changed(0, DataType::kFLOAT)); });
    refuses("an unknown type", {"query", "FP16 or BF16"},
            [&] { return accepts(changed(0, static_cast<DataType>(-5))); });
    refuses("mixed types", {"value", content_.inputs[0].type == DataType::kHALF ? "FP16" : "BF16"},
            [&] { return accepts(changed(2, DataType::kFLOAT)); });
    refuses("a 64-bit plan", {"block_mask", "INT32", "INT64"},
            [&] { return accepts(changed(5, DataType::kINT64)); });
    refuses("a 16-bit affine", {"channel_affine", "FP32", "FP16"},
            [&] { return accepts(changed(7, DataType::kHALF)); });
    refuses("an input too few",
            {std::to_string(count()) + " inputs", "got " + std::to_string(count() - 1)},
            [&] { return accepts({types.begin(), types.end() - 1}); });
    refuses("null types", {"NULL"},
            [&] { return build.getOutputDataTypes(&output, 1, nullptr, count()) == 0; });
  }

  void refuse_shapes(const Plugin& plugin) {
    Expressions expressions;
    std::vector<nvinfer1::DimsExprs> inputs(content_.inputs.size());
    nvinfer1::DimsExprs output;
    nvinfer1::IPluginV3OneBuild& build = build_of(plugin);
    for (nvinfer1::DimsExprs& input : inputs) input.nbDims = 3;
    refuses("a query of three dimensions", {"query", "4 dimensions", "3"}, [&] {
      return build.getOutputShapes(inputs.data(), count(), nullptr, 0, &output, 1, expressions) == 0;
    });
    refuses("two outputs", {"1 output", "2"}, [&] {
      return build.getOutputShapes(inputs.data(), count(), nullptr, 0, &output, 2, expressions) == 0;
    });
    refuses("no shapes", {"NULL"}, [&] {
      return build.getOutputShapes(nullptr, count(), nullptr, 0, &output, 1, expressions) == 0;
    });
  }

  void refuse_profiles(nvinfer1::IPluginV3OneBuild& build) {
    const auto accepts = [&](const ProfileDescriptions& all) {
      return build.configurePlugin(all.inputs.data(), count(), all.outputs.data(), 1) == 0;
    };
    const auto changed = [&](size_t input, int32_t dimension, int64_t size) {
      ProfileDescriptions all = describe(content_.inputs, {1, 1, 2});
      all.inputs[input].max.d[dimension] = size;
      return all;
    };
    const struct {
      size_t input;
      int32_t dimension;
      int64_t size;
      const char* name;
    } wrong[] = {
        {1, 1, 7, "key"},         {2, 3, 32, "value"},
        {3, 1, 7, "token_order"}, {4, 0, 99, "head_order"},
        {5, 3, 99, "block_mask"}, {5, 2, 99, "block_mask"},
        {6, 1, 99, "tile_order"}, {7, 0, 3, "channel_affine"},
        {0, 1, -1, "query"},      {0, 1, int64_t{1} << 40, "query"},
        {10, 3, 99, "fine_mask"}, {11, 0, 99, "corrected_heads"},
        {12, 0, 99, "dynamic_blocks"}, {13, 1, 99, "rotation"},
    };
    for (const auto& [input, dimension, size, name] : wrong) {
      if (input >= content_.inputs.size()) continue;  // the case is of version 1
      refuses("a wrong shape of " + std::string(name), {name + std::string(": expected")},
              [&, i = input, d = dimension, s = size] { return accepts(changed(i, d, s)); });
    }
    ProfileDescriptions fixed = changed(9, 0, 99);
    fixed.inputs[9].desc.dims.d[0] = 99;
    refuses("a wrong batch that is known", {"key_length", "[99]"},
            [&] { return accepts(fixed); });
    ProfileDescriptions wide = changed(8, 0, 99);
    wide.inputs[8].min.d[0] = 0;
    checks_.expect(accepts(wide), "wide bounds of a batch that is not known yet");
    ProfileDescriptions flat = describe(content_.inputs, {1, 1, 2});
    flat.inputs[0].max.nbDims = 3;
    refuses("a flat query", {"query", "4 dimensions"}, [&] { return accepts(flat); });
    ProfileDescriptions deep = describe(content_.inputs, {1, 1, 2});
    deep.inputs[3].opt.nbDims = 99;
    refuses("an absurd rank", {"token_order", "2 dimensions"}, [&] { return accepts(deep); });
    ProfileDescriptions packed = describe(content_.inputs, {1, 1, 2});
    packed.inputs[1].desc.format = nvinfer1::TensorFormat::kCHW32;
    refuses("a packed format", {"key", "linear"}, [&] { return accepts(packed); });
    ProfileDescriptions narrow = describe(content_.inputs, {1, 1, 2});
    for (const size_t input : {0u, 1u, 2u, 7u, 13u}) {
      if (input >= content_.inputs.size()) continue;  // the case is of version 1
      auto& tensor = narrow.inputs[input];
      const int32_t last = tensor.max.nbDims - 1;
      tensor.min.d[last] = tensor.opt.d[last] = tensor.max.d[last] = 80;
    }
    refuses("a head of 80 channels", {"head_dim", "80"}, [&] { return accepts(narrow); });
    refuses("the workspace of a head of 80 channels", {"head_dim", "80"}, [&] {
      return build.getWorkspaceSize(narrow.inputs.data(), count(), narrow.outputs.data(), 1) != 0;
    });
    refuses("the workspace of nothing", {"NULL"},
            [&] { return build.getWorkspaceSize(nullptr, count(), nullptr, 1) != 0; });
    refuses("a null profile", {"NULL"},
            [&] { return build.configurePlugin(nullptr, count(), nullptr, 1) == 0; });
  }

  void refuse_enqueue(const Plugin& plugin) {
    nvinfer1::IPluginV3OneBuild& build = build_of(plugin);
    nvinfer1::IPluginV3OneRuntime& runtime = runtime_of(plugin);
    Descriptions now = describe(content_.inputs, content_.batch());
    const Buffer result(content_.inputs[0].data.size());
    void* output = result.data();
    std::vector<const void*> inputs;
    for (const Tensor& tensor : content_.inputs) inputs.push_back(tensor.data.data());
    const ProfileDescriptions all = describe(content_.inputs, {1, 1, content_.batch()});
    const Buffer space(build.getWorkspaceSize(all.inputs.data(), count(), all.outputs.data(), 1));
    const auto enqueues = [&](const void* const* in, void* const* out) {
      return runtime.enqueue(now.inputs.data(), now.outputs.data(), in, out, space.data(),
                             nullptr) == 0;
    };
    refuses("no workspace", {"workspace"}, [&] {
      return runtime.enqueue(now.inputs.data(), now.outputs.data(), inputs.data(), &output, nullptr,
                             nullptr) == 0;
    });
    refuses("no inputs", {"NULL"}, [&] { return enqueues(nullptr, &output); });
    for (const size_t null : {0u, 5u, 9u, 10u, 11u, 12u}) {
      if (null >= content_.inputs.size()) continue;  // the case is of version 1
      std::vector<const void*> some = inputs;
      some[null] = nullptr;
      refuses("a null input", {content_.inputs[null].name, "NULL"},
              [&] { return enqueues(some.data(), &output); });
    }
    void* nowhere = nullptr;
    refuses("a null output", {"output", "NULL"}, [&] { return enqueues(inputs.data(), &nowhere); });
    refuses("no descriptions", {"NULL"}, [&] {
      return runtime.enqueue(nullptr, nullptr, inputs.data(), &output, nullptr, nullptr) == 0;
    });
    refuses("a tactic that was not offered", {"tactic", "3"},
            [&] { return runtime.setTactic(3) == 0; });
    now.inputs[0].type = DataType::kFLOAT;
    refuses("FP32 at run time", {"query", "fp16 or bf16"},
            [&] { return enqueues(inputs.data(), &output); });
    now = describe(content_.inputs, content_.batch());
    now.inputs[8].dims.d[0] += 1;
    refuses("another batch at run time", {"mask_bin"},
            [&] { return enqueues(inputs.data(), &output); });
    now = describe(content_.inputs, -1);
    refuses("a batch of -1", {"query", "-1"}, [&] { return enqueues(inputs.data(), &output); });
    refuses("a change to a batch of -1", {"query", "-1"}, [&] {
      return runtime.onShapeChange(now.inputs.data(), count(), now.outputs.data(), 1) == 0;
    });
  }

  // An empty batch is valid: there is nothing to compute, and pointers may be null.
  void accept_empty_batch(const Plugin& plugin) {
    const ProfileDescriptions all = describe(content_.inputs, {0, 1, 2});
    checks_.expect(
        build_of(plugin).configurePlugin(all.inputs.data(), count(), all.outputs.data(), 1) == 0,
        "a profile from batch 0");
    const Descriptions now = describe(content_.inputs, 0);
    nvinfer1::IPluginV3OneRuntime& runtime = runtime_of(plugin);
    checks_.expect(runtime.onShapeChange(now.inputs.data(), count(), now.outputs.data(), 1) == 0,
                   "a change to batch 0");
    const void* const inputs[14] = {};
    void* const outputs[1] = {};
    checks_.expect(runtime.enqueue(now.inputs.data(), now.outputs.data(), inputs, outputs, nullptr,
                                   nullptr) == 0,
                   "batch 0 with null tensors");
    checks_.expect(runtime.enqueue(now.inputs.data(), now.outputs.data(), nullptr, nullptr, nullptr,
                                   nullptr) == 0,
                   "batch 0 with no list of tensors");
  }

  // Calls enqueue on a plugin that was never configured, attached or told its shapes.
  void accept_wrong_order() {
    const Plugin plugin = create(creator_, content_.fields, TensorRTPhase::kRUNTIME);
    checks_.expect(plugin != nullptr, "an engine's plugin without the name of its kernels");
    const ProfileDescriptions all = describe(content_.inputs, {1, 1, content_.batch()});
    const DeviceBuffer space(
        memory_, build_of(plugin).getWorkspaceSize(all.inputs.data(), count(), all.outputs.data(), 1));
    const Descriptions now = describe(content_.inputs, content_.batch());
    const DeviceBuffer result(memory_, content_.inputs[0].data.size());
    void* const outputs[] = {result.data()};
    const Execution execution(memory_, content_.inputs);
    const cudaStream_t stream = memory_.create_stream();
    const int32_t status =
        runtime_of(plugin).enqueue(now.inputs.data(), now.outputs.data(),
                                   execution.inputs_from(0).data(), outputs, space.data(), stream);
    memory_.finish(stream);
    checks_.expect(status == 0, "enqueue before everything else");
  }

  int32_t count() const { return static_cast<int32_t>(content_.inputs.size()); }

  nvinfer1::IPluginCreatorV3One& creator_;
  const Case& content_;
  Memory& memory_;
  Checks checks_;
};

}  // namespace

int misuse(const PluginLibrary& library, const Case& content, Memory& memory) {
  return Misuse(library, content, memory).run();
}

}  // namespace paro::trt::host
