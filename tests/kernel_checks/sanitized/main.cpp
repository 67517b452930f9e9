// Runs the cases: each with every dtype it takes, under every schedule, with every set of launch
// limits. Prints each before it runs. Exits with 1 at the first whose result is wrong, or as the
// sanitizer does.
//
//   gradkern_sanitized [CASE...]

#include <cstdio>
#include <cstring>
#include <exception>
#include <iterator>

#include "case.h"

extern "C" {
const gradkern::Backend* gradkern_backend();
int simt_configure(int policy, uint64_t seed, unsigned resident_blocks);
void simt_limit_launches(int64_t chunk, int32_t tensors, int64_t blocks);
}

namespace gradkern::checks {
namespace {

constexpr const char* kDTypeNames[kDTypeCount] = {"float32", "float64",   "bfloat16",
                                                  "float16", "complex64", "complex128"};

struct Limits {
  int64_t chunk;
  int32_t tensors;
  int64_t blocks;
};

// A round: how threads are scheduled, and how tensors are cut into launches. Small chunks and grids
// that end within a tensor; small tables and grids that hold everything; what a GPU gets.
struct Round {
  const char* policy_name;
  int policy;
  uint64_t seed;
  unsigned resident_blocks;
  Limits limits;
};
constexpr Limits kSmallGrids{256, 4, 5}, kSmallTables{512, 3, 1000}, kAsOnGpu{32768, 1016, 1 << 30};
constexpr Round kRounds[] = {
    {"in order", 0, 1, 4, kSmallGrids}, {"reverse", 1, 2, 4, kSmallTables},
    {"random", 2, 3, 3, kSmallTables},  {"random", 2, 4, 1, kAsOnGpu},
    {"sprint", 3, 5, 1, kSmallGrids},   {"sprint", 3, 6, 3, kSmallTables},
    {"sprint", 3, 7, 3, kAsOnGpu},
};

bool is_wanted(const Case& c, int count, char** names) {
  for (int i = 0; i < count; i++) {
    if (std::strcmp(names[i], c.name) == 0) return true;
  }
  return count == 0;
}

void run(const Case& c, int dtype, const Round& round) {
  simt_configure(round.policy, round.seed, round.resident_blocks);
  simt_limit_launches(round.limits.chunk, round.limits.tensors, round.limits.blocks);
  Random random(round.seed);
  c.run({*gradkern_backend(), static_cast<DType>(dtype), random});
}

int run_all(int count, char** names) {
  int runs = 0;
  for (const Case* c = kCases; c != kCases + kCaseCount; c++) {
    if (!is_wanted(*c, count, names)) continue;
    for (int dtype = 0; dtype < kDTypeCount; dtype++) {
      if ((c->dtypes >> dtype & 1) == 0) continue;
      for (const Round& round : kRounds) {
        std::printf("%s, %s, %s, seed %d, %u resident blocks, chunks of %lld\n", c->name,
                    kDTypeNames[dtype], round.policy_name, static_cast<int>(round.seed),
                    round.resident_blocks, static_cast<long long>(round.limits.chunk));
        std::fflush(stdout);  // A sanitizer ends the process without doing so.
        try {
          run(*c, dtype, round);
        } catch (const std::exception& error) {
          std::printf("wrong: %s\n", error.what());
          return 1;
        }
        runs++;
      }
    }
  }
  if (runs == 0) {
    std::printf("no such case\n");
    return 1;
  }
  std::printf("%d runs of %d cases\n", runs, count == 0 ? kCaseCount : count);
  return 0;
}

}  // namespace
}  // namespace gradkern::checks

int main(int argc, char** argv) { return gradkern::checks::run_all(argc - 1, argv + 1); }
