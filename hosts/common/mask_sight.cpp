#include "common/mask_sight.h"

#include <algorithm>
#include <atomic>

namespace prescore::host {
namespace {

constexpr std::uint16_t kSeen = 0x0000;    // +0
constexpr std::uint16_t kHidden = 0xFC00;  // -inf
constexpr std::int64_t kBlock = 64;        // cells compared at once; the compiler vectorises it
constexpr std::int64_t kRowsPerTask = 64;

bool block_is(const std::uint16_t* p, std::uint16_t want) {
  unsigned different = 0;
  for (std::int64_t i = 0; i < kBlock; ++i) different |= static_cast<unsigned>(p[i] ^ want);
  return different == 0;
}

struct RowSight {
  std::int64_t seen;  // cells [0, seen) are plainly visible
  std::int64_t end;   // cells [end, n) are hidden
};

RowSight read_row(const std::uint16_t* row, std::int64_t n) {
  std::int64_t seen = 0, end = n;
  while (seen + kBlock <= n && block_is(row + seen, kSeen)) seen += kBlock;
  while (seen < n && row[seen] == kSeen) ++seen;
  while (end - kBlock >= seen && block_is(row + end - kBlock, kHidden)) end -= kBlock;
  while (end > seen && row[end - 1] == kHidden) --end;
  return {seen, end};
}

std::int64_t row_stride(const ggml_tensor* mask) {
  return static_cast<std::int64_t>(mask->nb[1] / sizeof(std::uint16_t));
}

}  // namespace

const std::uint16_t* mask_rows(const ggml_tensor* mask, std::int64_t s) {
  const std::int64_t stream = mask->ne[3] == 1 ? 0 : s;
  const char* base = static_cast<const char*>(mask->data);
  return reinterpret_cast<const std::uint16_t*>(base +
                                                stream * static_cast<std::int64_t>(mask->nb[3]));
}

MaskSight read_mask(const ggml_tensor* mask, std::int64_t s, std::int64_t n_q, std::int64_t n_kv,
                    Executor& executor) {
  MaskSight sight;
  sight.end = n_kv;
  if (mask == nullptr) return sight;

  const std::uint16_t* rows = mask_rows(mask, s);
  const std::int64_t stride = row_stride(mask);
  sight.positions.resize(static_cast<std::size_t>(n_q));
  std::vector<std::int64_t> ends(static_cast<std::size_t>(n_q));
  std::atomic<bool> prefix{true};
  executor.run((n_q + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task, int) {
    const std::int64_t last = std::min(n_q, (task + 1) * kRowsPerTask);
    for (std::int64_t i = task * kRowsPerTask; i < last; ++i) {
      const RowSight row = read_row(rows + i * stride, n_kv);
      sight.positions[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(row.seen - 1);
      ends[static_cast<std::size_t>(i)] = row.end;
      if (row.end != row.seen) prefix.store(false, std::memory_order_relaxed);
    }
  });
  sight.end = n_q > 0 ? *std::max_element(ends.begin(), ends.end()) : 0;
  sight.prefix = prefix && std::is_sorted(sight.positions.begin(), sight.positions.end());
  if (!sight.prefix) sight.positions.clear();
  return sight;
}

bool still_holds(const MaskSight& sight, const ggml_tensor* mask, std::int64_t s, std::int64_t n_q,
                 std::int64_t n_kv) {
  if (mask == nullptr) return !sight.prefix && sight.end == n_kv;
  if (!sight.prefix) return false;  // a mask that is handed through needs only its end: read again
  if (static_cast<std::int64_t>(sight.positions.size()) != n_q || sight.end > n_kv) return false;
  const std::uint16_t* rows = mask_rows(mask, s);
  const std::int64_t stride = row_stride(mask);
  for (std::int64_t i = 0; i < n_q; i = i + 16 < n_q || i == n_q - 1 ? i + 16 : n_q - 1) {
    const std::uint16_t* row = rows + i * stride;
    const std::int64_t end = sight.positions[static_cast<std::size_t>(i)] + 1;
    if ((end > 0 && row[end - 1] != kSeen) || (end < n_kv && row[end] != kHidden)) return false;
  }
  return true;
}

}  // namespace prescore::host
