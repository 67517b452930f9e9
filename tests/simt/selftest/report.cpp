#include "selftest/report.h"

#include <string>

namespace {

thread_local std::string message;
thread_local int place[5];

}  // namespace

namespace selftest {

void remember(const simt::Error& error) {
  message = error.what();
  place[0] = static_cast<int>(error.block().x);
  place[1] = static_cast<int>(error.block().y);
  place[2] = static_cast<int>(error.block().z);
  place[3] = error.thread();
  place[4] = error.where().line;
}

}  // namespace selftest

extern "C" {

const char* selftest_error() { return message.c_str(); }

// The block's x, y and z, the thread, and the line.
const int* selftest_error_place() { return place; }
}
