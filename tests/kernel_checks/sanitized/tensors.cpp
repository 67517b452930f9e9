#include "tensors.h"

#include <algorithm>

#include "elements.h"

namespace gradkern::checks {
namespace {

// What a block of 256 threads with four vectors of 16 bytes in flight (csrc/cuda/elements.cuh)
// takes in 900 vectors: a round of the loop for 132 threads, and one to three vectors one by one.
constexpr int64_t kManyVectors = 900;

int64_t vector_size(DType dtype) { return 16 / element_size(dtype); }

}  // namespace

Tensor::Tensor(DType dtype, int64_t numel, int64_t segment, bool aligned, Random& random)
    : offset_(aligned ? 0 : element_size(dtype)),
      memory_(offset_ + numel * element_size(dtype)),
      span_{memory_.data() + offset_, numel, segment, dtype} {
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < components(); i++) set(i, random() % 16 == 0 ? 0 : normal(random));
}

int64_t Tensor::components() const { return span_.numel * (is_complex(span_.dtype) ? 2 : 1); }

std::vector<double> Tensor::elements() const {
  std::vector<double> values(span_.numel);
  for (int64_t i = 0; i < span_.numel; i++) values[i] = read_element(span_.dtype, span_.data, i);
  return values;
}

std::vector<double> Tensor::component_values() const {
  std::vector<double> values(components());
  for (int64_t i = 0; i < components(); i++) {
    values[i] = read_component(span_.dtype, span_.data, i);
  }
  return values;
}

void Tensor::set(int64_t component, double value) {
  write_component(span_.dtype, span_.data, component, value);
}

bool Tensor::padding_is_intact() const {
  const char* const begin = memory_.data();
  return std::all_of(begin, begin + offset_, [](char byte) { return byte == '\xff'; });
}

void TensorList::add(DType dtype, int64_t numel, int64_t segment, bool aligned, Random& random) {
  tensors_.emplace_back(dtype, numel, segment, aligned, random);
  spans_.push_back(tensors_.back().span());
}

int64_t TensorList::segments() const {
  int64_t total = 0;
  for (const TensorSpan& span : spans_) total += span.segments();
  return total;
}

std::vector<std::vector<double>> TensorList::segment_values() const {
  std::vector<std::vector<double>> segments;
  for (const Tensor& tensor : tensors_) {
    const std::vector<double> values = tensor.elements();
    const int64_t segment = tensor.span().segment;
    for (int64_t s = 0; s < tensor.span().segments(); s++) {
      segments.emplace_back(values.begin() + s * segment, values.begin() + (s + 1) * segment);
    }
  }
  return segments;
}

TensorList whole_tensors(DType dtype, Random& random) {
  const int64_t many = kManyVectors * vector_size(dtype);
  TensorList list;
  const auto add = [&](int64_t numel, bool aligned) {
    list.add(dtype, numel, numel, aligned, random);
  };
  add(1300, true);
  add(131, false);
  add(1, true);
  add(0, true);
  add(777, false);
  add(many + vector_size(dtype) - 1, true);
  add(many, true);
  add(many + 1, false);
  return list;
}

TensorList tensors_by_unit(DType dtype, Random& random) {
  const int64_t many = kManyVectors * vector_size(dtype);
  TensorList list;
  list.add(dtype, 5 * 33, 33, true, random);
  list.add(dtype, 3 * 257, 257, false, random);
  list.add(dtype, 4, 1, true, random);
  list.add(dtype, 2 * many, many, true, random);
  return list;
}

}  // namespace gradkern::checks
