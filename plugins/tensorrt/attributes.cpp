#include "attributes.h"

#include <cmath>
#include <cstring>
#include <iterator>
#include <string_view>

#include "log.h"

namespace paro::trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

constexpr const char* kScale = "scale";

// An engine stores the name of the kernel library that it was built with. Another build may need
// more workspace than the engine reserves, and enqueue is not told how much that is.
constexpr const char* kKernelLibrary = "kernel_library";

constexpr int32_t kMaxMebibytes = 1 << 20;

struct IntegerField {
  const char* name;
  int32_t PluginAttributes::* value;
  std::array<int32_t, 3> allowed;  // a repeated entry fills the row
  const char* allowed_text;
  bool has_default;
  bool is_range = false;  // from the first to the second of `allowed`
  int32_t first_version = kVersion1;  // of the op that has this field

  constexpr bool allows(int32_t given) const {
    if (is_range) return allowed[0] <= given && given <= allowed[1];
    return given == allowed[0] || given == allowed[1] || given == allowed[2];
  }
};

constexpr IntegerField kIntegerFields[] = {
    {"block_q", &PluginAttributes::block_q, {64, 128, 128}, "64 or 128", false},
    {"block_k", &PluginAttributes::block_k, {64, 128, 128}, "64 or 128", false},
    {"qk_bits", &PluginAttributes::qk_bits, {16, 8, 4}, "16, 8 or 4", false},
    {"pv_bits", &PluginAttributes::pv_bits, {16, 8, 4}, "16, 8 or 4", false},
    {"pool_dropped", &PluginAttributes::pool_dropped, {0, 1, 1}, "0 or 1", true},
    {"fine_summaries", &PluginAttributes::fine_summaries, {0, 1, 1}, "0 or 1", true, false, kVersion2},
    {"mean_correction", &PluginAttributes::mean_correction, {0, 1, 1}, "0 or 1", true, false, kVersion2},
    {"routing", &PluginAttributes::routing, {0, 1, 1}, "0 or 1", true, false, kVersion2},
    {"smoothing", &PluginAttributes::smoothing, {0, 1, 1}, "0 or 1", true, false, kVersion2},
    {.name = "max_workspace_mib",
     .value = &PluginAttributes::max_workspace_mib,
     .allowed = {0, kMaxMebibytes},
     .allowed_text = "0 to 1048576 MiB",
     .has_default = true,
     .is_range = true},
};

constexpr size_t kMostAdvertised = 1 + std::size(kIntegerFields);
static_assert(StoredFields::kMost == kMostAdvertised + 1, "and the kernel library");

constexpr std::array<const char*, 14> kTypeNames = {
    "FLOAT16", "FLOAT32", "FLOAT64", "INT8",  "INT16", "INT32", "CHAR",
    "DIMS",    "UNKNOWN", "BF16",    "INT64", "FP8",   "INT4",  "FP4"};

const char* type_name(PluginFieldType type) {
  const auto index = static_cast<size_t>(type);
  return index < kTypeNames.size() ? kTypeNames[index] : "of an unknown type";
}

// Copies the field's one element, which may be unaligned.
template <class T>
paro_status read_scalar(const PluginField& field, PluginFieldType type, T& value) {
  if (field.type != type || field.length != 1) {
    return refuse(PARO_INVALID_ARGUMENT,
                  "attribute %s: expected one %s, got %d of %s; export the model again", field.name,
                  type_name(type), field.length, type_name(field.type));
  }
  if (field.data == nullptr) {
    return refuse(PARO_INVALID_ARGUMENT, "attribute %s: expected a value, got NULL", field.name);
  }
  std::memcpy(&value, field.data, sizeof value);
  return PARO_OK;
}

paro_status read_integer(const PluginField& field, const IntegerField& known,
                         PluginAttributes& attributes) {
  int32_t value = 0;
  if (const paro_status status = read_scalar(field, PluginFieldType::kINT32, value)) return status;
  if (known.allows(value)) {
    attributes.*known.value = value;
    return PARO_OK;
  }
  return refuse(PARO_INVALID_ARGUMENT, "attribute %s: expected %s, got %d; export the model again",
                known.name, known.allowed_text, value);
}

paro_status read_scale(const PluginField& field, PluginAttributes& attributes) {
  if (const paro_status status = read_scalar(field, PluginFieldType::kFLOAT32, attributes.scale)) {
    return status;
  }
  if (std::isfinite(attributes.scale) && attributes.scale >= 0.0f) return PARO_OK;
  return refuse(PARO_INVALID_ARGUMENT,
                "attribute scale: expected a finite factor above 0, or 0 for 1/sqrt(head_dim), "
                "got %g; export the model again",
                static_cast<double>(attributes.scale));
}

paro_status check_kernel_library(const PluginField& field) {
  if (field.type != PluginFieldType::kCHAR || field.data == nullptr || field.length < 0) {
    return refuse(PARO_INVALID_ARGUMENT,
                  "engine's %s: expected text, got %d of %s; build the engine again",
                  kKernelLibrary, field.length, type_name(field.type));
  }
  std::string_view stored(static_cast<const char*>(field.data), static_cast<size_t>(field.length));
  stored = stored.substr(0, stored.find('\0'));
  if (stored == paro_library_name()) return PARO_OK;
  return refuse(PARO_INVALID_ARGUMENT,
                "engine: expected one built with the kernels of this plugin, %s, got one of %.*s; "
                "load that plugin, or build the engine again",
                paro_library_name(), static_cast<int>(stored.size()), stored.data());
}

paro_status refuse_field(const char* name, int32_t version) {
  return refuse(PARO_INVALID_ARGUMENT,
                "attribute %s: expected scale, block_q, block_k, qk_bits, pv_bits, pool_dropped%s or "
                "max_workspace_mib; export the model again with the version of paro-trt that this "
                "plugin is of",
                name, version == kVersion1 ? "" : ", fine_summaries, mean_correction, routing, smoothing");
}

paro_status read_field(const PluginField& field, TensorRTPhase phase, int32_t version,
                       PluginAttributes& attributes) {
  const std::string_view name = field.name;
  if (name == kScale) return read_scale(field, attributes);
  for (const IntegerField& known : kIntegerFields) {
    if (name == known.name && known.first_version <= version) {
      return read_integer(field, known, attributes);
    }
  }
  if (phase == TensorRTPhase::kRUNTIME && name == kKernelLibrary) {
    return check_kernel_library(field);
  }
  return refuse_field(field.name, version);
}

bool holds(const PluginFieldCollection& fields, const char* name) {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    if (std::strcmp(fields.fields[i].name, name) == 0) return true;
  }
  return false;
}

paro_status check_collection(const PluginFieldCollection* fields) {
  if (fields == nullptr || fields->nbFields < 0 ||
      (fields->nbFields > 0 && fields->fields == nullptr)) {
    return refuse(PARO_INVALID_ARGUMENT, "fields: expected a collection, got NULL");
  }
  for (int32_t i = 0; i < fields->nbFields; ++i) {
    if (fields->fields[i].name == nullptr) {
      return refuse(PARO_INVALID_ARGUMENT, "fields[%d]: expected a name, got NULL", i);
    }
    if (holds({i, fields->fields}, fields->fields[i].name)) {
      return refuse(PARO_INVALID_ARGUMENT, "attribute %s: expected once, got it again",
                    fields->fields[i].name);
    }
  }
  for (const IntegerField& known : kIntegerFields) {
    if (known.has_default || holds(*fields, known.name)) continue;
    return refuse(PARO_INVALID_ARGUMENT,
                  "attribute %s: expected %s, got none; export the model again", known.name,
                  known.allowed_text);
  }
  return PARO_OK;
}

}  // namespace

const PluginFieldCollection* advertised_fields(int32_t version) noexcept {
  struct Advertised {
    explicit Advertised(int32_t of_version) {
      fields[0] = PluginField(kScale, nullptr, PluginFieldType::kFLOAT32, 1);
      int32_t count = 1;
      for (const IntegerField& known : kIntegerFields) {
        if (known.first_version > of_version) continue;
        fields[static_cast<size_t>(count++)] =
            PluginField(known.name, nullptr, PluginFieldType::kINT32, 1);
      }
      collection = {count, fields.data()};
    }
    std::array<PluginField, kMostAdvertised> fields;
    PluginFieldCollection collection;
  };
  static const Advertised version_1(kVersion1), version_2(kVersion2);
  return version == kVersion1 ? &version_1.collection : &version_2.collection;
}

paro_status read_fields(const PluginFieldCollection* fields, TensorRTPhase phase, int32_t version,
                        PluginAttributes& attributes) noexcept {
  if (const paro_status status = check_collection(fields)) return status;
  attributes = PluginAttributes{};
  attributes.version = version;
  for (int32_t i = 0; i < fields->nbFields; ++i) {
    if (const paro_status status = read_field(fields->fields[i], phase, version, attributes)) {
      return status;
    }
  }
  return PARO_OK;
}

StoredFields stored_fields(const PluginAttributes& attributes) noexcept {
  StoredFields stored;
  const auto add = [&](const PluginField& field) {
    stored.fields[static_cast<size_t>(stored.count++)] = field;
  };
  add(PluginField(kScale, &attributes.scale, PluginFieldType::kFLOAT32, 1));
  for (const IntegerField& known : kIntegerFields) {
    if (known.first_version > attributes.version) continue;
    add(PluginField(known.name, &(attributes.*known.value), PluginFieldType::kINT32, 1));
  }
  const char* const library = paro_library_name();
  const auto length = static_cast<int32_t>(std::strlen(library)) + 1;
  add(PluginField(kKernelLibrary, library, PluginFieldType::kCHAR, length));
  return stored;
}

}  // namespace paro::trt
