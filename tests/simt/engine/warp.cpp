#include "engine/warp.h"

#include "engine/file_name.h"

namespace simt {
namespace {

constexpr std::uint32_t bit(unsigned lane) { return 1u << lane; }

template <class Visit>
void for_each_lane(std::uint32_t lanes, Visit visit) {
  for (; lanes != 0; lanes &= lanes - 1) visit(__builtin_ctz(lanes));
}

}  // namespace

const char* name_of(WarpOperation operation) {
  switch (operation) {
    case WarpOperation::kSync:
      return "__syncwarp()";
    case WarpOperation::kShuffle:
      return "a shuffle";
    case WarpOperation::kVote:
      return "a vote";
    case WarpOperation::kMatch:
      return "a match";
  }
  return "";
}

void Warp::restart(std::uint32_t lanes) {
  alive_ = lanes;
  groups_ = 0;
}

void Warp::exit(unsigned lane) {
  alive_ &= ~bit(lane);
  for (int i = 0; i < groups_; ++i) {
    const Group& group = group_[i];
    if (group.mask & bit(lane)) {
      fail(group.where, "exits while lanes %08x of its warp wait for it at %s with mask %08x",
           group.arrived, name_of(group.operation), group.mask);
    }
  }
}

std::uint32_t Warp::arrive(WarpOperation operation, std::uint32_t mask, unsigned lane,
                           std::uint64_t value, unsigned source, SourceLine where) {
  if (!(mask & bit(lane))) {
    fail(where, "%s with mask %08x, in which its own lane %u is missing", name_of(operation), mask,
         lane);
  }
  if (mask & ~alive_) {
    fail(where, "%s with mask %08x names lanes %08x, which have exited or don't exist",
         name_of(operation), mask, mask & ~alive_);
  }
  Group& group = group_of(operation, mask, lane, where);
  group.arrived |= bit(lane);
  value_[lane] = value;
  source_[lane] = static_cast<std::uint8_t>(source);
  if (group.arrived != mask) return 0;
  complete(group);
  group = group_[--groups_];
  return mask;
}

Warp::Group& Warp::group_of(WarpOperation operation, std::uint32_t mask, unsigned lane,
                            SourceLine where) {
  for (int i = 0; i < groups_; ++i) {
    Group& group = group_[i];
    // Lanes that wait at another collective may come here later, unless they wait for this lane.
    const bool wait_for_each_other = (group.mask & bit(lane)) && (group.arrived & mask);
    if (!wait_for_each_other) continue;
    if (group.mask != mask || group.operation != operation || group.where != where) {
      fail(where, "%s with mask %08x while lanes %08x wait for it at %s with mask %08x (%s:%d)",
           name_of(operation), mask, group.arrived, name_of(group.operation), group.mask,
           file_name(group.where), group.where.line);
    }
    return group;
  }
  return group_[groups_++] = Group{operation, mask, 0, where};
}

void Warp::complete(const Group& group) {
  switch (group.operation) {
    case WarpOperation::kSync:
      ++synced_;
      break;
    case WarpOperation::kShuffle:
      for_each_lane(group.mask, [&](int lane) {
        const unsigned source = source_[lane];
        result_[lane] = group.mask & bit(source) ? value_[source] : ~std::uint64_t{0};
      });
      break;
    case WarpOperation::kVote: {
      std::uint32_t votes = 0;
      for_each_lane(group.mask, [&](int lane) { votes |= value_[lane] != 0 ? bit(lane) : 0; });
      for_each_lane(group.mask, [&](int lane) { result_[lane] = votes; });
      break;
    }
    case WarpOperation::kMatch:
      for_each_lane(group.mask, [&](int lane) {
        std::uint32_t equal = 0;
        for_each_lane(group.mask,
                      [&](int other) { equal |= value_[other] == value_[lane] ? bit(other) : 0; });
        result_[lane] = equal;
      });
      break;
  }
}

}  // namespace simt
