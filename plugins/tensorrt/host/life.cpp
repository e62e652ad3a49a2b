#include <algorithm>
#include <cstring>
#include <fstream>
#include <future>
#include <random>
#include <set>

#include "checks.h"
#include "commands.h"
#include "execution.h"
#include "expressions.h"
#include "formats.h"

namespace paro::trt::host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::TensorRTPhase;

constexpr int64_t kSpareBatch = 2;  // how far the profile's batch exceeds the case's

// Takes one plugin from creation to its end. Each step is the next one that TensorRT makes.
class Life {
 public:
  Life(const PluginLibrary& library, const Case& content, Memory& memory)
      : creator_(library.creator(content.version)),
        content_(content),
        memory_(memory),
        profile_{1, content.batch(), content.batch() + kSpareBatch} {}

  int run(const std::string& output) {
    Plugin plugin = create(creator_, content_.fields, TensorRTPhase::kBUILD);
    checks_.expect(plugin != nullptr, "the creator makes a plugin of the node's fields");
    if (plugin == nullptr) return checks_.report("life");
    check_names(plugin);
    check_types(plugin);
    check_shapes(plugin);
    check_formats(plugin);
    check_cloning(plugin);
    check_timing_cache_id(plugin);
    const size_t workspace = configure(plugin);
    time_on_fake_values(plugin, workspace);

    std::vector<Field> stored = copy_fields(*runtime_of(plugin).getFieldsToSerialize());
    check_stored(stored);
    plugin.reset();
    Plugin loaded = create(creator_, stored, TensorRTPhase::kRUNTIME);
    checks_.expect(loaded != nullptr, "the creator makes a plugin of the stored fields");
    if (loaded == nullptr) return checks_.report("life");
    stored.clear();
    execute(std::move(loaded), workspace, output);
    return checks_.report("life");
  }

 private:
  void check_names(const Plugin& plugin) {
    const nvinfer1::IPluginV3OneCore& core = core_of(plugin);
    checks_.expect(std::string("PAROAttention") == core.getPluginName() &&
                       content_.version == core.getPluginVersion() &&
                       std::string() == core.getPluginNamespace(),
                   "name, version and namespace are the node's");
    checks_.expect(std::string(creator_.getPluginName()) == core.getPluginName() &&
                       std::string(creator_.getPluginVersion()) == core.getPluginVersion(),
                   "plugin and creator have the same name and version");
    checks_.expect(is_kind(*plugin, "PLUGIN"), "the object is a V3 plugin");
  }

  void check_types(const Plugin& plugin) {
    checks_.expect(build_of(plugin).getNbOutputs() == 1, "there is one output");
    std::vector<DataType> inputs;
    for (const Tensor& tensor : content_.inputs) inputs.push_back(tensor.type);
    DataType output = DataType::kBOOL;
    const int32_t status = build_of(plugin).getOutputDataTypes(&output, 1, inputs.data(), count());
    checks_.expect(status == 0 && output == inputs[0], "the output has query's type");
  }

  // The output's shape must follow query's for any batch, not only for the batch of this case.
  void check_shapes(const Plugin& plugin) {
    Expressions expressions;
    int64_t batch = 3;
    std::vector<DimsExprs> inputs;
    for (size_t i = 0; i < content_.inputs.size(); ++i) {
      const nvinfer1::Dims& shape = content_.inputs[i].shape;
      DimsExprs& symbols = inputs.emplace_back();
      symbols.nbDims = shape.nbDims;
      for (int32_t d = 0; d < shape.nbDims; ++d) {
        const bool dynamic = d == 0 && has_batch(i);
        const int64_t size = shape.d[d];
        symbols.d[d] = expressions.symbol([=, &batch] { return dynamic ? batch : size; });
      }
    }
    DimsExprs output{};
    const int32_t status = build_of(plugin).getOutputShapes(inputs.data(), count(), nullptr, 0,
                                                            &output, 1, expressions);
    checks_.expect(status == 0 && output.nbDims == 4, "the output has query's rank");
    for (const int64_t now : {int64_t{1}, int64_t{7}}) {
      batch = now;
      const nvinfer1::Dims wanted = with_batch(content_.inputs[0].shape, now);
      for (int32_t d = 0; d < std::min(output.nbDims, 4); ++d) {
        checks_.expect(Expressions::evaluate(*output.d[d]) == wanted.d[d],
                       "the output has query's size " + std::to_string(d));
      }
    }
  }

  void check_formats(const Plugin& plugin) {
    const auto combinations = supported_combinations(build_of(plugin), count(), 1);
    checks_.expect(combinations.size() == 2, "two combinations: FP16 and BF16");
    bool found = false;
    for (const auto& combination : combinations) {
      bool same = combination.back().type == content_.inputs[0].type;
      for (size_t i = 0; i < content_.inputs.size(); ++i) {
        same &= combination[i].type == content_.inputs[i].type;
        same &= combination[i].format == nvinfer1::TensorFormat::kLINEAR;
      }
      found |= same;
    }
    checks_.expect(found, "the node's types are one of them, all linear");
    checks_.expect(
        static_cast<int32_t>(combinations.size()) <= build_of(plugin).getFormatCombinationLimit(),
        "the limit covers all combinations");
  }

  void check_cloning(const Plugin& plugin) {
    const Plugin copy(plugin->clone());
    checks_.expect(copy != nullptr && copy.get() != plugin.get(), "a clone is another object");
    if (copy == nullptr) return;
    checks_.expect(same(copy_fields(*runtime_of(copy).getFieldsToSerialize()),
                        copy_fields(*runtime_of(plugin).getFieldsToSerialize())),
                   "a clone stores the same fields");
    checks_.expect(identity(copy) == identity(plugin), "a clone has the same timing cache ID");
  }

  // A change of any attribute must change the ID.
  void check_timing_cache_id(const Plugin& plugin) {
    checks_.expect(build_of(plugin).getMetadataString() != nullptr, "metadata is text");
    std::set<std::string> ids = {identity(plugin)};
    const std::vector<Field> changes = {
        float_field("scale", 0.1234567f), float_field("scale", 0.1234568f),
        integer_field("block_q", 64),     integer_field("block_q", 128),
        integer_field("block_k", 64),     integer_field("block_k", 128),
        integer_field("qk_bits", 16),     integer_field("qk_bits", 8),
        integer_field("qk_bits", 4),      integer_field("pv_bits", 16),
        integer_field("pv_bits", 8),      integer_field("pv_bits", 4),
        integer_field("pool_dropped", 0), integer_field("pool_dropped", 1),
        integer_field("fine_summaries", 0), integer_field("fine_summaries", 1),
        integer_field("mean_correction", 0), integer_field("mean_correction", 1),
        integer_field("routing", 0), integer_field("routing", 1),
        integer_field("smoothing", 0), integer_field("smoothing", 1)};
    size_t distinct = 1;
    for (const Field& change : changes) {
      std::vector<Field> fields = content_.fields;
      const auto field = std::find_if(fields.begin(), fields.end(),
                                      [&](const Field& f) { return f.name == change.name; });
      // A case of version 1 has not the fields of version 2.
      if (field == fields.end() || field->value == change.value) continue;
      *field = change;
      const Plugin other = create(creator_, fields, TensorRTPhase::kBUILD);
      ids.insert(identity(other));
      ++distinct;
    }
    checks_.expect(ids.size() == distinct, "the timing cache ID covers every attribute");
  }

  size_t configure(const Plugin& plugin) {
    nvinfer1::IPluginV3OneBuild& build = build_of(plugin);
    const ProfileDescriptions all = describe(content_.inputs, profile_);
    checks_.expect(build.configurePlugin(all.inputs.data(), count(), all.outputs.data(), 1) == 0,
                   "the profile is accepted");
    checks_.expect(build.getNbTactics() == 0 && build.getValidTactics(nullptr, 0) == 0,
                   "there are no tactics");
    const size_t most = build.getWorkspaceSize(all.inputs.data(), count(), all.outputs.data(), 1);
    const ProfileDescriptions small = describe(content_.inputs, {1, 1, 1});
    const size_t least =
        build.getWorkspaceSize(small.inputs.data(), count(), small.outputs.data(), 1);
    checks_.expect(least > 0 && most >= least, "the workspace covers the largest batch");
    return most;
  }

  // The builder times plugins on uninitialized memory, so indices may have any value. The plugin
  // may refuse or compute, but it must not crash.
  void time_on_fake_values(const Plugin& plugin, size_t workspace) {
    nvinfer1::IPluginV3OneRuntime& original = runtime_of(plugin);
    const Plugin attached(original.attachToContext(nullptr));
    checks_.expect(attached != nullptr, "the plugin attaches to the builder's context");
    if (attached == nullptr) return;
    std::mt19937 random(1);
    std::vector<Tensor> fakes;
    for (const Tensor& tensor : content_.inputs) {
      Tensor& fake = fakes.emplace_back(
          Tensor{tensor.name, tensor.type, tensor.shape, Buffer(tensor.data.size())});
      std::generate_n(fake.data.data(), fake.data.size(),
                      [&] { return static_cast<std::byte>(random()); });
    }
    checks_.expect(runtime_of(attached).setTactic(0) == 0, "the default tactic");
    const Execution execution(memory_, fakes);
    int32_t status = -1;
    const std::string said = errors_of([&] {
      status = execution.run(runtime_of(attached), 0, content_.batch(), workspace).status;
    });
    std::printf("fake values: status %d %s", status, said.empty() ? "\n" : said.c_str());
    checks_.expect((status == 0) == said.empty(), "a refusal says why");
  }

  // The plugin must store each field of the node with the same name, type and value.
  void check_stored(const std::vector<Field>& stored) {
    for (const Field& field : content_.fields) {
      checks_.expect(std::any_of(stored.begin(), stored.end(),
                                 [&](const Field& other) { return same({field}, {other}); }),
                     "field " + field.name + " is stored unchanged");
    }
    const nvinfer1::PluginFieldCollection& names = *creator_.getFieldNames();
    checks_.expect(names.nbFields == static_cast<int32_t>(content_.fields.size()),
                   "the case has every field that the creator advertises");
  }

  // Runs two contexts at once and then each sample alone. All results must agree. The plugin that
  // the contexts came from is destroyed before they run.
  void execute(Plugin loaded, size_t workspace, const std::string& output) {
    const Plugin first(runtime_of(loaded).attachToContext(nullptr));
    const Plugin second(runtime_of(loaded).attachToContext(nullptr));
    checks_.expect(first != nullptr && second != nullptr, "the plugin attaches to two contexts");
    loaded.reset();
    if (first == nullptr || second == nullptr) return;
    const Execution execution(memory_, content_.inputs);
    const auto compute = [&](const Plugin& plugin, int64_t sample, int64_t batch) {
      return execution.run(runtime_of(plugin), sample, batch, workspace);
    };
    std::future<Execution::Outcome> future =
        std::async(std::launch::async, [&] { return compute(second, 0, content_.batch()); });
    const Execution::Outcome whole = compute(first, 0, content_.batch());
    const Execution::Outcome other = future.get();
    checks_.expect(whole.status == 0 && other.status == 0, "both compute");
    checks_.expect(equal(whole.result, 0, other.result), "two contexts at once compute the same");
    for (int64_t sample = 0; sample < content_.batch(); ++sample) {
      const Execution::Outcome alone = compute(first, sample, 1);
      const size_t offset = static_cast<size_t>(sample) * alone.result.size();
      checks_.expect(alone.status == 0 && equal(whole.result, offset, alone.result),
                     "sample " + std::to_string(sample) + " alone as in the batch");
    }
    std::ofstream(output, std::ios::binary)
        .write(reinterpret_cast<const char*>(whole.result.data()),
               static_cast<std::streamsize>(whole.result.size()));
  }

  // Whether `whole` contains `part` at `offset`.
  static bool equal(const Buffer& whole, size_t offset, const Buffer& part) {
    return offset + part.size() <= whole.size() &&
           std::memcmp(whole.data() + offset, part.data(), part.size()) == 0;
  }

  static bool same(const std::vector<Field>& some, const std::vector<Field>& others) {
    return std::equal(
        some.begin(), some.end(), others.begin(), others.end(), [](const Field& a, const Field& b) {
          return a.name == b.name && a.type == b.type && a.length == b.length && a.value == b.value;
        });
  }

  static std::string identity(const Plugin& plugin) { return build_of(plugin).getTimingCacheID(); }

  int32_t count() const { return static_cast<int32_t>(content_.inputs.size()); }

  nvinfer1::IPluginCreatorV3One& creator_;
  const Case& content_;
  Memory& memory_;
  Profile profile_;
  Checks checks_;
};

}  // namespace

int live(const PluginLibrary& library, const Case& content, Memory& memory,
         const std::string& output) {
  return Life(library, content, memory).run(output);
}

}  // namespace paro::trt::host
