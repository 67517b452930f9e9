// Which instruction set's kernels run: the best this machine has, or the one the user forces.

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace gradkern::cpu {

#if defined(__aarch64__)
namespace neon {
Kernels build_kernels(const char* name);
}
#else
namespace sse42 {
Kernels build_kernels(const char* name);
}
namespace avx2 {
Kernels build_kernels(const char* name);
}
namespace avx512 {
Kernels build_kernels(const char* name);
}
#endif

namespace {

struct Isa {
  const char* name;
  bool runnable;
  Kernels (*build)(const char* name);
};

// Slowest first.
const std::vector<Isa>& isas() {
#if defined(__aarch64__)
  static const std::vector<Isa> list = {{"neon", true, neon::build_kernels}};
#else
  static const std::vector<Isa> list = {
      {"sse4.2", __builtin_cpu_supports("sse4.2") > 0, sse42::build_kernels},
      {"avx2",
       __builtin_cpu_supports("avx2") > 0 && __builtin_cpu_supports("fma") > 0 &&
           __builtin_cpu_supports("f16c") > 0,
       avx2::build_kernels},
      {"avx512",
       __builtin_cpu_supports("avx512f") > 0 && __builtin_cpu_supports("avx512bw") > 0 &&
           __builtin_cpu_supports("avx512dq") > 0 && __builtin_cpu_supports("avx512vl") > 0 &&
           __builtin_cpu_supports("avx512cd") > 0,
       avx512::build_kernels},
  };
#endif
  return list;
}

std::string quoted_names(bool runnable_only) {
  std::string names;
  for (const Isa& isa : isas()) {
    if (runnable_only && !isa.runnable) continue;
    if (!names.empty()) names += ", ";
    names += '\'';
    names += isa.name;
    names += '\'';
  }
  return names;
}

Kernels choose() {
  if (const char* forced = std::getenv("GRADKERN_CPU_ISA"); forced && *forced) {
    for (const Isa& isa : isas()) {
      if (std::string(forced) != isa.name) continue;
      if (isa.runnable) return isa.build(isa.name);
      throw std::invalid_argument("GRADKERN_CPU_ISA is '" + std::string(forced) +
                                  "', which this CPU does not have; it must be one of " +
                                  quoted_names(true));
    }
    throw std::invalid_argument("GRADKERN_CPU_ISA is '" + std::string(forced) +
                                "'; it must be one of " + quoted_names(true));
  }
  for (auto isa = isas().rbegin(); isa != isas().rend(); ++isa) {
    if (isa->runnable) return isa->build(isa->name);
  }
  throw std::runtime_error("gradkern needs a CPU with one of " + quoted_names(false));
}

}  // namespace

const Kernels& kernels() {
  static const Kernels chosen = choose();
  return chosen;
}

const char* const* runnable_isas() {
  static const std::vector<const char*> names = [] {
    std::vector<const char*> list;
    for (const Isa& isa : isas()) {
      if (isa.runnable) list.push_back(isa.name);
    }
    list.push_back(nullptr);
    return list;
  }();
  return names.data();
}

}  // namespace gradkern::cpu
