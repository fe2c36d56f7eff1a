// How work runs beside Python: without the GIL, and ended by Ctrl-C.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "prescore/executor.h"

namespace prescore::python {

namespace nb = nanobind;

/// oneTBB workers; between tasks the calling thread lets Python handle its signals, twenty times a
/// second. Made and used without the GIL.
class InterruptibleExecutor final : public Executor {
 public:
  explicit InterruptibleExecutor(int threads) : workers_(make_executor(threads)) {}
  int width() const noexcept override { return workers_->width(); }

  void run(std::int64_t n, const std::function<void(std::int64_t, int)>& task) override {
    workers_->run(n, [&](std::int64_t i, int worker) {
      if (interrupted_.load(std::memory_order_relaxed)) return;  // run() is about to throw
      task(i, worker);
      if (std::this_thread::get_id() == caller_) check_signals();
    });
  }

 private:
  void check_signals() {
    const auto now = std::chrono::steady_clock::now();
    if (now - checked_ < std::chrono::milliseconds(50)) return;
    checked_ = now;
    const nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() == 0) return;
    interrupted_.store(true, std::memory_order_relaxed);
    throw nb::python_error();
  }

  std::unique_ptr<Executor> workers_;
  std::thread::id caller_ = std::this_thread::get_id();
  std::chrono::steady_clock::time_point checked_ = std::chrono::steady_clock::now();
  std::atomic<bool> interrupted_{false};
};

/// body(executor) without the GIL.
template <typename Body>
auto run_without_gil(int threads, Body&& body) {
  const nb::gil_scoped_release released;
  InterruptibleExecutor executor(threads);
  return body(executor);
}

}  // namespace prescore::python
