// Turns a kernel's access to unreadable memory into a simt::Error, so that a test fails instead of
// taking its process with it.
#pragma once

#pragma GCC visibility push(hidden)

namespace simt {

// While one exists, a SIGSEGV or SIGBUS on a fiber ends the launch; any other goes where it went
// before. Nothing of this under a sanitizer, which has its own handlers and reports.
class MemoryFaultTrap {
 public:
  MemoryFaultTrap();
  ~MemoryFaultTrap();
  MemoryFaultTrap(const MemoryFaultTrap&) = delete;
  MemoryFaultTrap& operator=(const MemoryFaultTrap&) = delete;
};

}  // namespace simt

#pragma GCC visibility pop
