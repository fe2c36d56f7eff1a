#include "prescore/executor.h"

#ifndef PRESCORE_PLAIN_THREADS
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#endif

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace prescore {
namespace {

class SerialExecutor final : public Executor {
 public:
  int width() const noexcept override { return 1; }
  void run(std::int64_t n, const std::function<void(std::int64_t, int)>& task) override {
    for (std::int64_t i = 0; i < n; ++i) task(i, 0);
  }
};

// The loop of one worker over a shared counter: tasks start in order, which the planners use to put
// the longest first.
void serve(std::atomic<std::int64_t>& next, std::int64_t n, int worker,
           const std::function<void(std::int64_t, int)>& task) {
  for (std::int64_t i = 0; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) task(i, worker);
}

#ifdef PRESCORE_PLAIN_THREADS
// For the thread sanitizer, which reports every hand-over inside a TBB that it did not compile.
class ThreadsExecutor final : public Executor {
 public:
  explicit ThreadsExecutor(int threads) : width_(threads) {}
  int width() const noexcept override { return width_; }

  void run(std::int64_t n, const std::function<void(std::int64_t, int)>& task) override {
    std::atomic<std::int64_t> next{0};
    std::mutex mutex;
    std::exception_ptr error;
    const auto guarded = [&](int worker) {
      try {
        serve(next, n, worker, task);
      } catch (...) {
        const std::scoped_lock lock(mutex);
        if (!error) error = std::current_exception();
        next.store(n);
      }
    };
    {
      std::vector<std::jthread> threads;
      for (int w = 1; w < width_; ++w) threads.emplace_back(guarded, w);
      guarded(0);
    }
    if (error) std::rethrow_exception(error);
  }

 private:
  int width_;
};
#else
class ThreadsExecutor final : public Executor {
 public:
  explicit ThreadsExecutor(int threads)
      : width_(threads),
        allow_(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads)),
        arena_(threads) {}
  int width() const noexcept override { return width_; }

  void run(std::int64_t n, const std::function<void(std::int64_t, int)>& task) override {
    if (n <= 0) return;
    std::atomic<std::int64_t> next{0};
    arena_.execute([&] {
      tbb::parallel_for(
          0, width_, [&](int worker) { serve(next, n, worker, task); }, tbb::simple_partitioner());
    });
  }

 private:
  int width_;
  tbb::global_control allow_;  // more workers than cores are allowed where they are asked for
  tbb::task_arena arena_;
};
#endif

inline void relax(int& spins) {
  // Spinning is right while the others compute; yielding when there are more threads than cores.
  if (++spins < 2000) {
#if defined(__x86_64__)
    _mm_pause();
#endif
  } else {
    std::this_thread::yield();
  }
}

}  // namespace

std::unique_ptr<Executor> make_serial_executor() { return std::make_unique<SerialExecutor>(); }

std::unique_ptr<Executor> make_executor(int threads) {
  check(threads >= 0 && threads <= 4096, "executor", "threads", threads, "0 (all) to 4096");
  if (threads == 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  if (threads == 1) return make_serial_executor();
  return std::make_unique<ThreadsExecutor>(threads);
}

struct TeamExecutor::Impl {
  explicit Impl(int w) : width(w), joined(static_cast<std::size_t>(std::max(w, 1))) {}
  const int width;
  struct alignas(64) Count {
    std::uint64_t n = 0;
  };
  std::vector<Count> joined;            // rounds that each thread has joined, touched by it alone
  std::atomic<std::uint64_t> begun{0};  // rounds whose body has begun, and ended
  std::atomic<std::uint64_t> ended{0};
  std::atomic<bool> open{false};  // a job may be served
  std::atomic<int> busy{0};       // threads that serve it
  std::atomic<std::int64_t> next{0};
  const std::function<void(std::int64_t, int)>* task = nullptr;
  std::int64_t n = 0;
  std::atomic<bool> failed{false};
  std::exception_ptr error;

  void work(int worker) noexcept {
    for (std::int64_t i = 0; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
      if (failed.load(std::memory_order_relaxed)) continue;
      try {
        (*task)(i, worker);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }
};

TeamExecutor::TeamExecutor(int width) : impl_(std::make_unique<Impl>(width)) {
  check(width >= 1 && width <= 4096, "executor", "team width", width, "1 to 4096");
}
TeamExecutor::~TeamExecutor() = default;
int TeamExecutor::width() const noexcept { return impl_->width; }

void TeamExecutor::run(std::int64_t n, const std::function<void(std::int64_t, int)>& task) {
  Impl& t = *impl_;
  t.task = &task;
  t.n = n;
  t.next.store(0, std::memory_order_relaxed);
  t.failed.store(false, std::memory_order_relaxed);
  t.error = nullptr;
  t.open.store(true);
  t.work(0);
  t.open.store(false);
  for (int spins = 0; t.busy.load() != 0;) relax(spins);
  if (t.error) std::rethrow_exception(std::exchange(t.error, nullptr));
}

void TeamExecutor::join(int ith, const std::function<void()>& body) {
  Impl& t = *impl_;
  if (t.width == 1) return body();
  const std::uint64_t round = ++t.joined[static_cast<std::size_t>(ith)].n;
  if (ith == 0) {
    t.begun.store(round);
    std::exception_ptr thrown;
    try {
      body();
    } catch (...) {
      thrown = std::current_exception();
    }
    t.ended.store(round);
    if (thrown) std::rethrow_exception(thrown);
    return;
  }
  // Early threads wait for their round to begin; late ones find it ended and leave at once.
  for (int spins = 0; t.begun.load() < round;) relax(spins);
  for (int spins = 0; t.ended.load() < round;) {
    if (!t.open.load()) {
      relax(spins);
      continue;
    }
    t.busy.fetch_add(1);
    if (t.open.load()) {  // still open after being counted: run() waits for us
      t.work(ith);
      spins = 0;
    }
    t.busy.fetch_sub(1);
  }
}

}  // namespace prescore
