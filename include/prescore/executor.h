// Who runs the work. Kernels take ranges of tasks; a host with its own threads brings them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace prescore {

/// Runs numbered tasks on a fixed number of workers. Results never depend on which worker ran what.
class Executor {
 public:
  virtual ~Executor() = default;

  /// Number of workers; `worker` below is in [0, width()).
  virtual int width() const noexcept = 0;

  /// Calls task(i, worker) once for each i in [0, n), in any order, and returns when all are done.
  /// No two tasks run at the same time with the same worker. The first exception is rethrown.
  virtual void run(std::int64_t n, const std::function<void(std::int64_t, int)>& task) = 0;
};

/// Everything on the calling thread.
std::unique_ptr<Executor> make_serial_executor();

/// `threads` oneTBB workers, the calling thread included; 0: all that the machine offers.
std::unique_ptr<Executor> make_executor(int threads = 0);

/// Threads that a host owns and sends in together, as ggml does for every operation. Each of the
/// `width` threads calls join(ith, body) once a round; thread 0 runs `body`, whose calls of run()
/// all the others serve until it returns. The others only spin, so nothing is allocated or locked.
class TeamExecutor final : public Executor {
 public:
  explicit TeamExecutor(int width);
  ~TeamExecutor() override;
  int width() const noexcept override;
  void run(std::int64_t n, const std::function<void(std::int64_t, int)>& task) override;

  /// Called by every thread of the team, once a round. Exceptions of `body` leave on thread 0.
  void join(int ith, const std::function<void()>& body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace prescore
