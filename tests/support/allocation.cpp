#include "support/allocation.h"

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PRESCORE_OWN_ALLOCATOR
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PRESCORE_OWN_ALLOCATOR
#endif

namespace {

std::atomic<std::int64_t> now{0}, peak{0};

#ifndef PRESCORE_OWN_ALLOCATOR

void* counted(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  const std::int64_t size = static_cast<std::int64_t>(malloc_usable_size(p));
  const std::int64_t level = now.fetch_add(size) + size;
  for (std::int64_t top = peak.load(); level > top && !peak.compare_exchange_weak(top, level);) {
  }
  return p;
}
void uncounted(void* p) noexcept {
  if (p != nullptr) now.fetch_sub(static_cast<std::int64_t>(malloc_usable_size(p)));
  std::free(p);
}

#endif

}  // namespace

#ifndef PRESCORE_OWN_ALLOCATOR
void* operator new(std::size_t n) { return counted(std::malloc(n)); }
void* operator new(std::size_t n, std::align_val_t a) {
  const auto align = static_cast<std::size_t>(a);
  return counted(std::aligned_alloc(align, (n + align - 1) / align * align));
}
void operator delete(void* p) noexcept { uncounted(p); }
void operator delete(void* p, std::size_t) noexcept { uncounted(p); }
void operator delete(void* p, std::align_val_t) noexcept { uncounted(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { uncounted(p); }
#endif

namespace prescore::test {

PeakMemory::PeakMemory() : before_(now.load()) { peak.store(before_); }
std::int64_t PeakMemory::bytes() const { return peak.load() - before_; }
bool PeakMemory::works() {
#ifdef PRESCORE_OWN_ALLOCATOR
  return false;
#else
  return true;
#endif
}

}  // namespace prescore::test
