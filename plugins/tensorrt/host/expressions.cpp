#include "expressions.h"

#include <algorithm>

namespace paro::trt::host {
namespace {

using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

int64_t apply(DimensionOperation op, int64_t a, int64_t b) {
  switch (op) {
    case DimensionOperation::kSUM:
      return a + b;
    case DimensionOperation::kPROD:
      return a * b;
    case DimensionOperation::kMAX:
      return std::max(a, b);
    case DimensionOperation::kMIN:
      return std::min(a, b);
    case DimensionOperation::kSUB:
      return a - b;
    case DimensionOperation::kEQUAL:
      return a == b;
    case DimensionOperation::kLESS:
      return a < b;
    case DimensionOperation::kFLOOR_DIV:
      return floor_divide(a, b);
    case DimensionOperation::kCEIL_DIV:
      return -floor_divide(-a, b);
  }
  return 0;
}

}  // namespace

const IDimensionExpr* Expressions::symbol(std::function<int64_t()> value) {
  return &expressions_.emplace_back(false, std::move(value));
}

int64_t Expressions::evaluate(const IDimensionExpr& expression) {
  return static_cast<const Expression&>(expression).value();
}

const IDimensionExpr* Expressions::constant(int64_t value) {
  return &expressions_.emplace_back(true, [value] { return value; });
}

const IDimensionExpr* Expressions::operation(DimensionOperation op, const IDimensionExpr& first,
                                             const IDimensionExpr& second) {
  const bool constant = first.isConstant() && second.isConstant();
  return &expressions_.emplace_back(
      constant, [op, &first, &second] { return apply(op, evaluate(first), evaluate(second)); });
}

const IDimensionExpr* Expressions::declareSizeTensor(int32_t, const IDimensionExpr&,
                                                     const IDimensionExpr&) {
  return nullptr;  // no size of the op's output depends on values
}

}  // namespace paro::trt::host
