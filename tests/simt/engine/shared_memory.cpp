#include "engine/shared_memory.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "engine/sanitizers.h"

namespace simt {
namespace {

constexpr unsigned char kPoison = 0xff;
constexpr std::size_t kAlignment = 128;  // of the widest type anyone might put there

// Bytes behind each array that nobody may write. AddressSanitizer has its own, right behind the
// last byte, which ours would hide.
constexpr std::size_t kTail = kSanitized ? 0 : 256;

}  // namespace

void SharedMemory::start_launch(std::size_t dynamic_bytes) {
  const EngineAccesses ignored;
  arrays_.clear();
  dynamic_ = Array{};
  if (dynamic_bytes != 0) dynamic_ = allocate(nullptr, dynamic_bytes, "the dynamic shared memory");
}

void SharedMemory::start_block() {
  if (kSanitized) {
    // Other memory than that of the block before, whose accesses nothing orders before this one's.
    start_launch(dynamic_.bytes);
    return;
  }
  for (const Array& array : arrays_) poison(array);
  poison(dynamic_);
}

void* SharedMemory::array(const void* key, std::size_t bytes, const char* name) {
  for (const Array& array : arrays_) {
    if (array.key == key) return array.data.get();
  }
  const EngineAccesses ignored;
  arrays_.push_back(allocate(key, bytes, name));
  return arrays_.back().data.get();
}

std::size_t SharedMemory::bytes() const {
  std::size_t total = dynamic_.bytes;
  for (const Array& array : arrays_) total += (array.bytes + 15) / 16 * 16;
  return total;
}

const char* SharedMemory::overrun() const {
  for (const Array& array : arrays_) {
    if (overrun(array)) return array.name;
  }
  return overrun(dynamic_) ? dynamic_.name : nullptr;
}

SharedMemory::Array SharedMemory::allocate(const void* key, std::size_t bytes, const char* name) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, bytes + kTail) != 0) throw std::bad_alloc();
  Array array{key, bytes, name, {}};
  array.data.reset(static_cast<unsigned char*>(memory));
  poison(array);
  return array;
}

void SharedMemory::poison(const Array& array) {
  if (array.data) std::memset(array.data.get(), kPoison, array.bytes + kTail);
}

bool SharedMemory::overrun(const Array& array) {
  const unsigned char* const end = array.data.get() + array.bytes;
  return array.data &&
         !std::all_of(end, end + kTail, [](unsigned char byte) { return byte == kPoison; });
}

}  // namespace simt
