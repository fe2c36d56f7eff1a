// Executors: every task once, no worker twice at a time, exceptions arrive.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "prescore/executor.h"
#include "prescore/types.h"

namespace prescore {
namespace {

void check_runs(Executor& executor, std::int64_t n) {
  std::vector<std::atomic<int>> calls(static_cast<std::size_t>(n));
  std::vector<std::atomic<int>> active(static_cast<std::size_t>(executor.width()));
  std::atomic<bool> shared{false};
  executor.run(n, [&](std::int64_t i, int worker) {
    ASSERT_GE(worker, 0);
    ASSERT_LT(worker, executor.width());
    if (active[static_cast<std::size_t>(worker)].fetch_add(1) != 0) shared = true;
    calls[static_cast<std::size_t>(i)].fetch_add(1);
    active[static_cast<std::size_t>(worker)].fetch_sub(1);
  });
  EXPECT_FALSE(shared);
  for (const auto& c : calls) EXPECT_EQ(c.load(), 1);
}

void check_throws(Executor& executor) {
  const auto bad = [](std::int64_t i, int) {
    if (i == 17) throw Error("seventeen");
  };
  EXPECT_THROW(executor.run(100, bad), Error);
  EXPECT_THROW(executor.run(100, [](std::int64_t, int) { throw std::runtime_error("all"); }),
               std::runtime_error);
  check_runs(executor, 50);  // and works afterwards
}

// Threads of a host around a team; `body` runs on thread 0, once a round.
void in_team(int width, int rounds, const std::function<void(TeamExecutor&, int)>& body) {
  TeamExecutor team(width);
  std::vector<std::thread> threads;
  for (int ith = 1; ith < width; ++ith) {
    threads.emplace_back([&, ith] {
      for (int r = 0; r < rounds; ++r) team.join(ith, [] { FAIL() << "body on a worker"; });
    });
  }
  for (int r = 0; r < rounds; ++r) team.join(0, [&] { body(team, r); });
  for (std::thread& t : threads) t.join();
}

TEST(ExecutorThread, SerialAndTbbRunEveryTaskOnce) {
  for (const int threads : {1, 2, 7}) {
    const auto executor = make_executor(threads);
    EXPECT_EQ(executor->width(), threads);
    for (const std::int64_t n : {0, 1, 2, 6, 7, 8, 1000}) check_runs(*executor, n);
    check_throws(*executor);
  }
  EXPECT_EQ(make_serial_executor()->width(), 1);
  EXPECT_GE(make_executor(0)->width(), 1);
}

TEST(ExecutorThread, SeveralRunsAtOnceFromSeveralThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([] {
      const auto executor = make_executor(2);
      for (int r = 0; r < 20; ++r) check_runs(*executor, 64);
    });
  }
  for (std::thread& t : threads) t.join();
}

TEST(ExecutorThread, TeamRunsManyRounds) {
  for (const int width : {1, 2, 3}) {
    in_team(width, 200, [](TeamExecutor& team, int r) {
      for (int i = 0; i < r % 4; ++i) check_runs(team, (r * 7) % 65);
    });
  }
}

TEST(ExecutorThread, TeamRunsOnItsOwnWhileOthersAreLate) {
  constexpr int kRounds = 20;
  TeamExecutor team(2);
  std::thread late([&] {
    for (int r = 0; r < kRounds; ++r) {
      std::this_thread::sleep_for(std::chrono::milliseconds(r % 3));
      team.join(1, [] {});
    }
  });
  for (int r = 0; r < kRounds; ++r) team.join(0, [&] { check_runs(team, 10); });
  late.join();
}

TEST(ExecutorThread, TeamPassesExceptionsOn) {
  for (const int width : {1, 3}) {
    in_team(width, 20, [](TeamExecutor& team, int) { check_throws(team); });
    TeamExecutor team(width);
    std::vector<std::thread> threads;
    for (int ith = 1; ith < width; ++ith) {
      threads.emplace_back([&, ith] {
        team.join(ith, [] {});
        team.join(ith, [] {});
      });
    }
    EXPECT_THROW(team.join(0, [] { throw Error("body"); }), Error);
    team.join(0, [&] { check_runs(team, 30); });
    for (std::thread& t : threads) t.join();
  }
}

TEST(Executor, BadWidthIsAnError) {
  EXPECT_THROW(make_executor(-1), Error);
  EXPECT_THROW(make_executor(1 << 20), Error);
  EXPECT_THROW(TeamExecutor(0), Error);
  EXPECT_THROW(TeamExecutor(-3), Error);
}

}  // namespace
}  // namespace prescore
