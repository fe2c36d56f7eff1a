// Counts what the test program has on the heap.
#pragma once

#include <cstdint>

namespace prescore::test {

/// Largest number of bytes allocated at a time since construction, above what there was.
class PeakMemory {
 public:
  PeakMemory();
  std::int64_t bytes() const;
  /// False under a sanitizer, which has an allocator of its own.
  static bool works();

 private:
  std::int64_t before_;
};

}  // namespace prescore::test
