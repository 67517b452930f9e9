// The name of a source file without its directories, for messages.
#pragma once

#include <cstring>

#include "source_line.h"

namespace simt {

inline const char* file_name(const SourceLine& where) {
  if (where.file == nullptr) return "?";
  const char* const slash = std::strrchr(where.file, '/');
  return slash == nullptr ? where.file : slash + 1;
}

}  // namespace simt
