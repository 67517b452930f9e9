// Batch normalisation: every kernel for planes and columns, with one chunk for each tile and with
// several; channels that a block holds, and those that it doesn't.

#include <cmath>
#include <string>
#include <vector>

#include "batch_norm_call.h"
#include "case.h"
#include "elements.h"
#include "expect.h"
#include "formulas/batch_norm_activations.h"
#include "output_statistics.h"
#include "tensors.h"

namespace gradkern::checks {
namespace {

struct Sizes {
  int64_t outer, channels, inner;

  int64_t numel() const { return outer * channels * inner; }
  int64_t count() const { return outer * inner; }
  int64_t channel_of(int64_t element) const { return element / inner % channels; }
};

constexpr double kEps = 1e-5;
constexpr double kParameters[2] = {0.5, 0};

// What the storage's rounding leaves of a result, and float32 arithmetic of a small one.
constexpr ByStorage tolerance_of{1e-4, 1e-11, 0x1p-7, 0x1p-9};

// One problem: its tensors, and the textbook's results in float64.
class Problem {
 public:
  Problem(const Setting& s, Sizes sizes, bool aligned, bool with_residual)
      : s_(s),
        sizes_(sizes),
        mean_(sizes.channels),
        invstd_(sizes.channels),
        squares_(sizes.channels),
        sum_dz_(sizes.channels),
        sum_dz_xhat_(sizes.channels),
        running_mean_(sizes.channels),
        statistics_(kActivationStatisticCount + sizes.channels) {
    for (int i = 0; i < kTensors; i++) {
      tensors_.add(s.dtype, sizes.numel(), sizes.numel(), aligned, s.random);
    }
    call_.dtype = s.dtype;
    call_.outer = sizes.outer;
    call_.channels = sizes.channels;
    call_.inner = sizes.inner;
    call_.eps = kEps;
    call_.activation = static_cast<int32_t>(s.random() % formulas::BatchNormActivations::kSize);
    call_.parameters[0] = kParameters[0];
    call_.mean = mean_.data();
    call_.invstd = invstd_.data();
    call_.x = data(kX);
    call_.residual = with_residual ? data(kResidual) : nullptr;
    for (int64_t c = 0; c < sizes.channels; c++) running_mean_[c] = 1;
    solve();
  }

  void check_moments() {
    run(BatchNormPass::kMoments, [&] { call_.sum_squared_deviations = squares_.data(); });
    expect_channels("mean", mean_, of_mean_);
    expect_channels("sum of squared deviations", squares_, of_squares_);
  }

  void check_forward() {
    run(BatchNormPass::kForward, [&] {
      call_.y = data(kY);
      call_.running_dtype = DType::kFloat64;
      call_.running_mean = running_mean_.data();
      call_.momentum = 0.5;
    });
    expect_channels("mean", mean_, of_mean_);
    expect_channels("invstd", invstd_, of_invstd_);
    for (int64_t c = 0; c < sizes_.channels; c++) {
      expect_close(running_mean_[c], 0.5 + 0.5 * mean_[c], 1e-14, "running mean", c);
    }
    expect_elements(kY, of_y_);
  }

  void check_normalise() {
    give_statistics();
    run(BatchNormPass::kNormalise, [&] { call_.y = data(kY); });
    expect_elements(kY, of_y_);
  }

  // A value that is not finite takes a second look at its unit.
  void check_measured() {
    give_statistics();
    check_measured_by(BatchNormPass::kNormalise);
  }
  void check_held_measured() { check_measured_by(BatchNormPass::kForward); }

  void check_sums() {
    give_statistics();
    from_both([&] {
      run(BatchNormPass::kSums, [&] { ask_sums(); });
      expect_sums();
    });
  }

  void check_backward() {
    give_statistics();
    from_both([&] {
      run(BatchNormPass::kBackward, [&] {
        ask_sums();
        ask_gradients();
      });
      expect_sums();
      expect_gradients();
    });
  }

  void check_input_gradient() {
    give_statistics();
    from_both([&] {
      for (int64_t c = 0; c < sizes_.channels; c++) {
        sum_dz_[c] = of_sum_dz_[c];
        sum_dz_xhat_[c] = of_sum_dz_xhat_[c];
      }
      run(BatchNormPass::kInputGradient, [&] {
        ask_sums();
        ask_gradients();
        call_.count = static_cast<double>(sizes_.count());
      });
      expect_gradients();
    });
  }

 private:
  enum { kX, kResidual, kGrad, kY, kGradInput, kGradResidual, kTensors };
  using Numbers = std::vector<double>;

  void* data(int tensor) const { return tensors_.spans()[tensor].data; }

  void check_measured_by(BatchNormPass pass) {
    measure(pass);
    expect_elements(kY, of_y_);
    tensors_.tensors()[kX].set(sizes_.numel() / 2, NAN);
    measure(pass);
  }
  void measure(BatchNormPass pass) {
    run(pass, [&] {
      call_.y = data(kY);
      call_.output_statistics = statistics_.data();
    });
    const Numbers y = tensors_.tensors()[kY].elements();
    expect_output_statistics(statistics_, y, sizes_.channels);
    if (name_of(call_.activation) != "relu") return;
    Numbers active(sizes_.channels, 0);
    // NaN is not saturated.
    for (size_t i = 0; i < y.size(); i++) active[sizes_.channel_of(i)] += !(y[i] <= 0);
    for (int64_t c = 0; c < sizes_.channels; c++) {
      expect_close(statistics_[kActivationStatisticCount + c], active[c], 0, "active elements", c);
    }
  }

  template <class Prepare>
  void run(BatchNormPass pass, Prepare prepare) {
    call_.pass = pass;
    prepare();
    const DeviceMemory workspace(s_.backend.batch_norm_workspace(call_));
    s_.backend.batch_norm({0, nullptr, nullptr, workspace.data()}, call_);
    for (const Tensor& tensor : tensors_.tensors()) {
      expect(tensor.padding_is_intact(), "the bytes before a tensor were written");
    }
  }

  void give_statistics() {
    for (int64_t c = 0; c < sizes_.channels; c++) {
      mean_[c] = of_mean_[c];
      invstd_[c] = of_invstd_[c];
    }
  }
  // Checks gradients from the input, and from the output where there are such.
  template <class CheckGradients>
  void from_both(CheckGradients check) {
    check();
    if (element_size(s_.dtype) < sizeof(float) || call_.residual != nullptr) return;
    for (int64_t i = 0; i < sizes_.numel(); i++) {
      write_component(s_.dtype, data(kY), i, of_y_[i]);
    }
    const std::string activation = name_of(call_.activation);
    for (int row = 0; row < formulas::BatchNormGradients::kSize; row++) {
      if (!formulas::is_of_output(row) || name_of(row) != activation) continue;
      call_.activation = row;
      call_.x = data(kY);
      check();
    }
  }
  static std::string name_of(int row) {
    std::string name;
    formulas::BatchNormGradients::each([&](int index, auto formula) {
      if (index == row) name = decltype(formula)::kName;
    });
    return name;
  }
  void ask_sums() {
    call_.grad_output = data(kGrad);
    call_.sum_dz = sum_dz_.data();
    call_.sum_dz_xhat = sum_dz_xhat_.data();
  }
  void ask_gradients() {
    call_.grad_input = data(kGradInput);
    call_.grad_residual = call_.residual == nullptr ? nullptr : data(kGradResidual);
  }

  void solve() {
    const Numbers x = tensors_.tensors()[kX].elements(), g = tensors_.tensors()[kGrad].elements();
    const Numbers r = tensors_.tensors()[kResidual].elements();
    const size_t channels = sizes_.channels;
    const double count = static_cast<double>(sizes_.count());
    of_mean_.assign(channels, 0);
    of_squares_ = of_sum_dz_ = of_sum_dz_xhat_ = of_mean_;
    for (size_t i = 0; i < x.size(); i++) of_mean_[sizes_.channel_of(i)] += x[i] / count;
    for (size_t i = 0; i < x.size(); i++) {
      const int64_t c = sizes_.channel_of(i);
      of_squares_[c] += (x[i] - of_mean_[c]) * (x[i] - of_mean_[c]);
    }
    for (const double squares : of_squares_) {
      of_invstd_.push_back(1 / std::sqrt(squares / count + kEps));
    }
    Numbers xhat, dz;
    const formulas::Parameters<double> parameters{{kParameters[0], kParameters[1]}};
    for (size_t i = 0; i < x.size(); i++) {
      const int64_t c = sizes_.channel_of(i);
      xhat.push_back((x[i] - of_mean_[c]) * of_invstd_[c]);
      const double z = xhat[i] + (call_.residual == nullptr ? 0 : r[i]);
      formulas::BatchNormActivations::each([&](int index, auto formula) {
        if (index != call_.activation) return;
        const auto at = decltype(formula)::at(z, parameters);
        of_y_.push_back(at.value);
        dz.push_back(g[i] * at.derivative);
      });
      of_sum_dz_[c] += dz[i];
      of_sum_dz_xhat_[c] += dz[i] * xhat[i];
    }
    for (size_t i = 0; i < x.size(); i++) {
      const int64_t c = sizes_.channel_of(i);
      of_dx_.push_back(of_invstd_[c] *
                       (dz[i] - of_sum_dz_[c] / count - xhat[i] * of_sum_dz_xhat_[c] / count));
    }
    of_dz_ = dz;
  }

  void expect_channels(const char* what, const DeviceArray<double>& got, const Numbers& want) {
    for (int64_t c = 0; c < sizes_.channels; c++) {
      if (std::abs(got[c] - want[c]) <= 1e-12 * static_cast<double>(sizes_.count())) continue;
      expect_close(got[c], want[c], 1e-11, what, c);
    }
  }
  // Of gradients in float32, as they are.
  void expect_sums() {
    const double tolerance = s_.dtype == DType::kFloat64 ? 1e-12 : 1e-5;
    for (int64_t c = 0; c < sizes_.channels; c++) {
      const double allowed = tolerance * static_cast<double>(sizes_.count());
      if (!(std::abs(sum_dz_[c] - of_sum_dz_[c]) <= allowed)) {
        expect_close(sum_dz_[c], of_sum_dz_[c], 0, "sum of dz", c);
      }
      if (!(std::abs(sum_dz_xhat_[c] - of_sum_dz_xhat_[c]) <= allowed)) {
        expect_close(sum_dz_xhat_[c], of_sum_dz_xhat_[c], 0, "sum of dz * xhat", c);
      }
    }
  }
  void expect_gradients() {
    expect_elements(kGradInput, of_dx_);
    if (call_.grad_residual != nullptr) expect_elements(kGradResidual, of_dz_);
  }
  void expect_elements(int tensor, const Numbers& want) {
    const double tolerance = tolerance_of(s_.dtype);
    for (int64_t i = 0; i < sizes_.numel(); i++) {
      const double got = read_element(s_.dtype, data(tensor), i);
      if (!(std::abs(got - want[i]) <= tolerance)) {
        expect_close(got, want[i], tolerance, "element", i);
      }
    }
  }

  const Setting& s_;
  Sizes sizes_;
  TensorList tensors_;
  BatchNormCall call_{};
  DeviceArray<double> mean_, invstd_, squares_, sum_dz_, sum_dz_xhat_, running_mean_;
  DeviceArray<double> statistics_;
  Numbers of_mean_, of_squares_, of_invstd_, of_y_, of_dz_, of_sum_dz_, of_sum_dz_xhat_, of_dx_;
};

using Check = void (Problem::*)();

void check(const Setting& s, Check pass, Sizes sizes, bool aligned, bool with_residual) {
  Problem problem(s, sizes, aligned, with_residual);
  (problem.*pass)();
}

// Planes and columns that fill the loop of several vectors in flight, and short ones.
void check(const Setting& s, Check pass) {
  const int64_t vector = 16 / element_size(s.dtype);
  check(s, pass, {3, 2, 400 * vector}, true, true);
  check(s, pass, {5, 3, 3 * vector + 1}, false, false);
  check(s, pass, {1200, vector, 1}, true, false);
  check(s, pass, {23, 35 * vector + 1, 1}, false, true);
}

void check_held(const Setting& s, Check pass) {
  const int64_t vector = 16 / element_size(s.dtype);
  check(s, pass, {3, 2, 28 * vector + 1}, true, true);
  check(s, pass, {2, 3, 8 * vector}, false, false);
  check(s, pass, {1, 9, 16}, true, true);
}

}  // namespace

void batch_norm_moments(const Setting& s) { check(s, &Problem::check_moments); }
void batch_norm_normalise(const Setting& s) { check(s, &Problem::check_normalise); }
void batch_norm_sums(const Setting& s) { check(s, &Problem::check_sums); }
void batch_norm_input_gradient(const Setting& s) { check(s, &Problem::check_input_gradient); }
void batch_norm_held_forward(const Setting& s) { check_held(s, &Problem::check_forward); }
void batch_norm_measured(const Setting& s) { check(s, &Problem::check_measured); }
void batch_norm_held_measured(const Setting& s) { check_held(s, &Problem::check_held_measured); }
void batch_norm_held_backward(const Setting& s) { check_held(s, &Problem::check_backward); }

}  // namespace gradkern::checks
