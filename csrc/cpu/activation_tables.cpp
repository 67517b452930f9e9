#include "cpu/activation_tables.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <mutex>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/read_scalar.h"
#include "formulas/activation_table.h"

namespace gradkern::cpu {
namespace {

constexpr int64_t kEntries = 65536;
// Beside fewer elements, finding the table shows.
constexpr int64_t kFewElements = 4096;
// Elements that must have been asked for before a table is made: it costs a quarter of their
// computation.
constexpr int64_t kWorthATable = 4 * kEntries;
// 256 KiB each at most.
constexpr size_t kMostTables = 16;

// Measured on a Zen 3 (AVX2): .3 ns an element for one that is looked up, .05 to .15 for
// arithmetic, .5 for an exponential, .7 to 1.3 for more; twice as much for one that is multiplied
// by a gradient.
bool has_table(const ActivationCall& call) {
  using formulas::ActivationCost;
  if (element_size(call.dtype) != 2 || call.numel < kFewElements) return false;
  const ActivationCost cost = formulas::activation_rows()[call.activation].cost;
  switch (call.pass) {
    case ActivationPass::kValue:
    case ActivationPass::kDerivative:
    case ActivationPass::kValueAndDerivative:
      return cost != ActivationCost::kArithmetic;
    case ActivationPass::kBackward:
    case ActivationPass::kSecond:
      return cost == ActivationCost::kLong;
    case ActivationPass::kBackwardOfOutput:
    case ActivationPass::kSecondOfOutput:
      return false;  // arithmetic of the output
  }
  return false;
}

struct Key {
  int32_t activation;
  ActivationPass pass;
  DType dtype;
  // The bits: NaN is a parameter like any other.
  std::array<uint64_t, 2> parameters;

  explicit Key(const ActivationCall& call)
      : activation(call.activation), pass(call.pass), dtype(call.dtype) {
    std::memcpy(parameters.data(), call.parameters, sizeof parameters);
  }
  bool operator==(const Key&) const = default;
};

Kernels::Activate kernel_of(const ActivationCall& call, DType dtype) {
  return kernels().activate[call.activation][static_cast<int>(call.pass)][static_cast<int>(dtype)];
}

std::shared_ptr<const ActivationTable> make_table(const ActivationCall& call) {
  std::vector<uint16_t> inputs(kEntries);
  for (int64_t i = 0; i < kEntries; i++) inputs[i] = static_cast<uint16_t>(i);
  const auto table = std::make_shared<ActivationTable>();
  if (inputs_of(call.pass) == 1) {
    void* out[2] = {};
    for (int k = 0; k < outputs_of(call.pass); k++) {
      table->out[k].resize(kEntries);
      out[k] = table->out[k].data();
    }
    const void* in[2] = {inputs.data()};
    kernel_of(call, call.dtype)(in, out, kEntries, call.parameters);
    return table;
  }
  // In float32, unrounded: of a gradient of 1.
  std::vector<double> exact(kEntries);
  read_scalars(inputs.data(), call.dtype, kEntries, exact.data());
  const std::vector<float> widened(exact.begin(), exact.end()), ones(kEntries, 1.0f);
  table->factor.resize(kEntries);
  const void* in[2] = {ones.data(), widened.data()};
  void* out[2] = {table->factor.data()};
  kernel_of(call, DType::kFloat32)(in, out, kEntries, call.parameters);
  return table;
}

// The tables of the process, the longest unused one given up for a new one.
class Tables {
 public:
  std::shared_ptr<const ActivationTable> find(const ActivationCall& call) {
    const Key key(call);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Entry& used = entry_of(key);
      if (used.table != nullptr) return used.table;
      used.elements += call.numel;
      if (used.elements < kWorthATable) return nullptr;
    }
    // Unlocked: other tables are in use meanwhile. Should two threads make one, it is the same.
    const auto table = make_table(call);
    const std::lock_guard<std::mutex> lock(mutex_);
    entry_of(key).table = table;
    return table;
  }

 private:
  struct Entry {
    Key key;
    int64_t elements = 0;
    std::shared_ptr<const ActivationTable> table = nullptr;
  };

  Entry& entry_of(const Key& key) {
    auto entry = std::find_if(entries_.begin(), entries_.end(),
                              [&](const Entry& e) { return e.key == key; });
    if (entry == entries_.end()) {
      if (entries_.size() == kMostTables) entries_.pop_back();
      entry = entries_.insert(entries_.end(), Entry{key});
    }
    std::rotate(entries_.begin(), entry, entry + 1);
    return entries_.front();
  }

  std::mutex mutex_;
  std::vector<Entry> entries_;
};

// The entries for inputs that lie side by side, four to one load and one store.
template <class Entry>
void look_up(const Entry* table, const uint16_t* in, Entry* out, int64_t n) {
  using Bits = std::conditional_t<sizeof(Entry) == 2, uint16_t, uint32_t>;
  // Two together, in a register.
  const auto two = [&](uint64_t first, uint64_t second) {
    return static_cast<uint64_t>(std::bit_cast<Bits>(table[first])) |
           static_cast<uint64_t>(std::bit_cast<Bits>(table[second])) << 8 * sizeof(Entry);
  };
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    uint64_t four;
    std::memcpy(&four, in + i, sizeof four);
    const uint64_t low = two(four & 0xffff, four >> 16 & 0xffff);
    const uint64_t high = two(four >> 32 & 0xffff, four >> 48);
    if constexpr (sizeof(Entry) == 2) {
      const uint64_t all = low | high << 32;
      std::memcpy(out + i, &all, sizeof all);
    } else {
      std::memcpy(out + i, &low, sizeof low);
      std::memcpy(out + i + 2, &high, sizeof high);
    }
  }
  for (; i < n; i++) out[i] = table[in[i]];
}

}  // namespace

std::shared_ptr<const ActivationTable> activation_table_for(const ActivationCall& call) {
  if (!has_table(call)) return nullptr;
  static Tables tables;
  return tables.find(call);
}

void look_up(const ActivationTable& table, const ActivationCall& call, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 512;
  const auto at = [](const void* data, int64_t i) {
    return static_cast<const uint16_t*>(data) + i;
  };
  const auto to = [](void* data, int64_t i) { return static_cast<uint16_t*>(data) + i; };
  const auto multiply = kernels().multiply[static_cast<int>(call.dtype)];
  float factors[kBlock];
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t n = std::min(kBlock, end - i);
    if (inputs_of(call.pass) == 2) {
      look_up(table.factor.data(), at(call.in[1], i), factors, n);
      multiply(at(call.in[0], i), factors, to(call.out[0], i), n);
      continue;
    }
    // An output may be the input: the second is read before it is overwritten.
    if (outputs_of(call.pass) == 2) {
      uint16_t x[kBlock];
      std::memcpy(x, at(call.in[0], i), n * sizeof *x);
      look_up(table.out[0].data(), x, to(call.out[0], i), n);
      look_up(table.out[1].data(), x, to(call.out[1], i), n);
    } else {
      look_up(table.out[0].data(), at(call.in[0], i), to(call.out[0], i), n);
    }
  }
}

}  // namespace gradkern::cpu
