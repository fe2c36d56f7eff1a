// One block of device memory cut into arrays.
#pragma once

#include <cstdint>

#include "common/launch.cuh"
#include "common/mma.cuh"

namespace prescore::cuda {

/// Gives out parts of a block one after the other. Without a block it only counts.
class Arena {
 public:
  explicit Arena(void* base = nullptr) : base_(static_cast<char*>(base)) {}
  template <typename T>
  T* take(std::int64_t n) {
    T* at = base_ != nullptr ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (n * static_cast<std::int64_t>(sizeof(T)) + 255) / 256 * 256;
    return at;
  }
  std::int64_t used() const noexcept { return used_; }

 private:
  char* base_;
  std::int64_t used_ = 0;
};

/// The caller's block, or one that is allocated and freed in the order of the stream.
class StreamMemory {
 public:
  StreamMemory(void* given, std::int64_t given_bytes, std::int64_t wanted, cudaStream_t stream)
      : stream_(stream), data_(given) {
    if (given != nullptr) {
      check(given_bytes >= wanted, "attention", "workspace_bytes", given_bytes,
            "at least " + std::to_string(wanted));
      if (reinterpret_cast<std::uintptr_t>(given) % 256 != 0)
        fail("attention", "workspace", "a pointer not aligned to 256 bytes", "an aligned one");
      return;
    }
    check_cuda(cudaMallocAsync(&data_, static_cast<std::size_t>(wanted), stream), "attention",
               "allocating the workspace");
    owned_ = true;
  }
  ~StreamMemory() {
    if (owned_) (void)cudaFreeAsync(data_, stream_);
  }
  StreamMemory(const StreamMemory&) = delete;
  StreamMemory& operator=(const StreamMemory&) = delete;
  void* data() const noexcept { return data_; }

 private:
  cudaStream_t stream_;
  void* data_;
  bool owned_ = false;
};

}  // namespace prescore::cuda
