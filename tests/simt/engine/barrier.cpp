#include "engine/barrier.h"

#include "engine/file_name.h"

namespace simt {

void Barrier::restart() { waiting_ = 0; }

bool Barrier::arrive(BarrierKind kind, bool predicate, unsigned threads, SourceLine where) {
  if (waiting_ == 0) {
    kind_ = kind;
    where_ = where;
    in_favour_ = 0;
  } else if (kind != kind_ || where != where_) {
    fail(where,
         "divergent barrier: __syncthreads() while %u threads of the block wait at that of %s:%d",
         waiting_, file_name(where_), where_.line);
  }
  in_favour_ += predicate;
  if (++waiting_ != threads) return false;
  switch (kind) {
    case BarrierKind::kSync:
      break;
    case BarrierKind::kCount:
      result_ = in_favour_;
      break;
    case BarrierKind::kAnd:
      result_ = in_favour_ == static_cast<int>(threads);
      break;
    case BarrierKind::kOr:
      result_ = in_favour_ != 0;
      break;
  }
  waiting_ = 0;
  ++completed_;
  return true;
}

}  // namespace simt
