// TensorRT's arithmetic on shapes: symbols, operations on them, and their evaluation.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>

#include "../nv_infer.h"

namespace paro::trt::host {

// Creates expressions and owns them.
class Expressions : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
 public:
  Expressions() { mImpl = this; }

  // A size that is known only when the engine runs. `value` returns it.
  const nvinfer1::IDimensionExpr* symbol(std::function<int64_t()> value);
  static int64_t evaluate(const nvinfer1::IDimensionExpr& expression);

 private:
  class Expression : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
   public:
    Expression(bool constant, std::function<int64_t()> value)
        : constant_(constant), value_(std::move(value)) {
      mImpl = this;
    }
    int64_t value() const { return value_(); }

   private:
    bool isConstant() const override { return constant_; }
    int64_t getConstantValue() const override { return constant_ ? value_() : INT64_MIN; }
    bool isSizeTensor() const override { return false; }

    bool constant_;
    std::function<int64_t()> value_;
  };

  const nvinfer1::IDimensionExpr* constant(int64_t value) override;
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op,
                                            const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override;
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t outputIndex,
                                                    const nvinfer1::IDimensionExpr& opt,
                                                    const nvinfer1::IDimensionExpr& upper) override;

  std::deque<Expression> expressions_;
};

}  // namespace paro::trt::host
