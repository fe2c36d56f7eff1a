// Contract 6: every mistake of a caller is an Error of one sentence, and nothing is written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "support/cases.h"

namespace prescore::test {
namespace {

constexpr std::int64_t kHuge = std::int64_t{1} << 62;

struct Call {
  Tensor q, k, v;
  State out;
  Visibility visibility;
  Options options;
};
using Break = std::function<void(Call&)>;

void expect_error(const std::string& what, const Break& spoil, Method method = Method::kDense) {
  SCOPED_TRACE(what + " with " + to_string(method));
  Case c;
  c.b = 2, c.h_q = 4, c.h_kv = 2, c.n_q = 6, c.n_kv = 600, c.d = 16, c.d_v = 8;
  Data data(c);
  Call call{data.q.view(), data.k.view(), data.v.view(), data.state(), data.visibility(), {}};
  call.options.plan.method = method;
  call.options.plan.budget = 200;
  spoil(call);
  try {
    attention(call.q, call.k, call.v, call.visibility, nullptr, call.out, call.options,
              *make_serial_executor());
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_EQ(text.front(), '[') << text;
    EXPECT_NE(text.find("] "), std::string::npos) << text;
    EXPECT_NE(text.find(", got "), std::string::npos) << text;
    EXPECT_NE(text.find(", want "), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_LT(text.size(), 300u) << text;
  } catch (const std::exception& e) {
    ADD_FAILURE() << "not an Error: " << e.what();
  }
  // Nothing was written: outputs still hold the sentinel, a NaN.
  EXPECT_TRUE(std::isnan(data.o.get(0, 0, 0, 0)));
  EXPECT_TRUE(std::isnan(data.o.get(1, 3, 5, 7)));
  EXPECT_TRUE(std::isnan(data.lse.get(1, 3, 5, 0)));
}

class ErrorsOf : public testing::TestWithParam<Method> {};
INSTANTIATE_TEST_SUITE_P(All, ErrorsOf,
                         testing::Values(Method::kAuto, Method::kDense, Method::kWindow,
                                         Method::kTopK, Method::kRouted),
                         [](const auto& param) { return to_string(param.param); });

TEST_P(ErrorsOf, Tensors) {
  const auto check = [&](const std::string& what, const Break& spoil) {
    expect_error(what, spoil, GetParam());
  };
  check("null q", [](Call& c) { c.q.data = nullptr; });
  check("null k", [](Call& c) { c.k.data = nullptr; });
  check("null v", [](Call& c) { c.v.data = nullptr; });
  check("null o", [](Call& c) { c.out.o.data = nullptr; });
  for (std::size_t axis = 0; axis < 4; ++axis) {
    const std::string name = " in axis " + std::to_string(axis);
    for (const std::int64_t size : {std::int64_t{0}, std::int64_t{-1}, -kHuge}) {
      check("q of size " + std::to_string(size) + name, [&](Call& c) { c.q.shape[axis] = size; });
      check("k of size " + std::to_string(size) + name, [&](Call& c) { c.k.shape[axis] = size; });
      check("v of size " + std::to_string(size) + name, [&](Call& c) { c.v.shape[axis] = size; });
      check("o of size " + std::to_string(size) + name,
            [&](Call& c) { c.out.o.shape[axis] = size; });
    }
    for (const std::int64_t stride :
         {std::int64_t{-1}, kHuge, std::numeric_limits<std::int64_t>::max(),
          std::numeric_limits<std::int64_t>::min()}) {
      check("q stride " + std::to_string(stride) + name,
            [&](Call& c) { c.q.stride[axis] = stride; });
      check("k stride " + std::to_string(stride) + name,
            [&](Call& c) { c.k.stride[axis] = stride; });
      check("v stride " + std::to_string(stride) + name,
            [&](Call& c) { c.v.stride[axis] = stride; });
      check("o stride " + std::to_string(stride) + name,
            [&](Call& c) { c.out.o.stride[axis] = stride; });
    }
  }
  check("broadcast output", [](Call& c) { c.out.o.stride[2] = 0; });
  check("last axis of k", [](Call& c) { c.k.stride[3] = 2; });
  check("unknown dtype of q", [](Call& c) { c.q.dtype = static_cast<DType>(9); });
  check("unknown dtype of k and v", [](Call& c) { c.k.dtype = c.v.dtype = static_cast<DType>(9); });
  check("unknown dtype of o", [](Call& c) { c.out.o.dtype = static_cast<DType>(9); });
  check("different dtypes of k and v", [](Call& c) { c.v.dtype = DType::kF16; });
}

TEST_P(ErrorsOf, Shapes) {
  const auto check = [&](const std::string& what, const Break& spoil) {
    expect_error(what, spoil, GetParam());
  };
  check("heads that do not divide", [](Call& c) { c.q.shape[1] = c.out.o.shape[1] = 3; });
  check("more key heads than query heads", [](Call& c) { c.q.shape[1] = c.out.o.shape[1] = 1; });
  check("heads of v", [](Call& c) { c.v.shape[1] = 1; });
  check("keys of v", [](Call& c) { c.v.shape[2] = 599; });
  check("batch of k", [](Call& c) { c.k.shape[0] = 1; });
  check("batch of v", [](Call& c) { c.v.shape[0] = 1; });
  check("batch of o", [](Call& c) { c.out.o.shape[0] = 1; });
  check("d of q and k", [](Call& c) { c.q.shape[3] = 15; });
  check("d_v of o", [](Call& c) { c.out.o.shape[3] = 7; });
  check("queries of o", [](Call& c) { c.out.o.shape[2] = 5; });
  check("d above 512", [](Call& c) {
    c.q.shape[3] = c.k.shape[3] = 513;
    c.q.stride = c.k.stride = {0, 0, 0, 1};
  });
  check("d_v above 512", [](Call& c) {
    c.v.shape[3] = c.out.o.shape[3] = 513;
    c.v.stride = {0, 0, 0, 1}, c.out.o.stride = {1 << 20, 1 << 16, 513, 1};
  });
  check("broadcast to a size that overflows", [](Call& c) {
    c.k.shape[2] = c.v.shape[2] = kHuge;
    c.k.stride[2] = c.v.stride[2] = 0;
    c.visibility.n_kv = kHuge;
  });
}

TEST_P(ErrorsOf, VisibilityAndScale) {
  const auto check = [&](const std::string& what, const Break& spoil) {
    expect_error(what, spoil, GetParam());
  };
  check("more keys than k has", [](Call& c) { c.visibility.n_kv = 601; });
  check("negative keys", [](Call& c) { c.visibility.n_kv = -1; });
  check("other queries than q has", [](Call& c) { c.visibility.n_q = 7; });
  check("no queries", [](Call& c) { c.visibility.n_q = 0; });
  static const std::int32_t falling[] = {5, 4, 3, 2, 1, 0}, late[] = {0, 1, 2, 3, 4, 600};
  static const std::int32_t early[] = {-7, 1, 2, 3, 4, 5};
  check("falling positions", [](Call& c) { c.visibility.positions = falling; });
  check("positions past the keys", [](Call& c) { c.visibility.positions = late; });
  check("positions below -1", [](Call& c) { c.visibility.positions = early; });
  check("too few positions",
        [](Call& c) { c.visibility.positions = std::span<const std::int32_t>(late).first(3); });
  check("scale not finite", [](Call& c) { c.options.scale = NAN; });
  check("scale infinite", [](Call& c) { c.options.scale = INFINITY; });
}

TEST_P(ErrorsOf, Options) {
  const auto check = [&](const std::string& what, const Break& spoil) {
    expect_error(what, spoil, GetParam());
  };
  for (const std::int64_t x : {std::int64_t{-1}, kHuge, std::numeric_limits<std::int64_t>::max(),
                               std::numeric_limits<std::int64_t>::min()}) {
    const std::string value = " of " + std::to_string(x);
    check("budget" + value, [&](Call& c) { c.options.plan.budget = x; });
    check("sinks" + value, [&](Call& c) { c.options.plan.sinks = x; });
    check("window" + value, [&](Call& c) { c.options.plan.window = x; });
    check("tile" + value, [&](Call& c) { c.options.plan.tile = x; });
    check("open_groups" + value, [&](Call& c) { c.options.plan.open_groups = x; });
    check("open_segments" + value, [&](Call& c) { c.options.plan.open_segments = x; });
    check("route_stride" + value, [&](Call& c) { c.options.plan.route_stride = x; });
  }
  check("stand-in share", [](Call& c) { c.options.plan.standin_share = -1; });
  check("stand-in share", [](Call& c) { c.options.plan.standin_share = NAN; });
  check("no budget", [](Call& c) { c.options.plan.budget = 0; });
  check("tile of 8", [](Call& c) { c.options.plan.tile = 8; });
  check("tile of 40", [](Call& c) { c.options.plan.tile = 40; });
  check("routing", [](Call& c) { c.options.plan.routing = static_cast<Routing>(7); });
  check("stand-ins", [](Call& c) { c.options.plan.standins = static_cast<StandIns>(7); });
  check("method", [](Call& c) { c.options.plan.method = static_cast<Method>(7); });
}

TEST(Errors, MaskWithASparseMethod) {
  static const std::uint16_t mask[6 * 600] = {};
  for (const Method method : {Method::kWindow, Method::kTopK, Method::kRouted}) {
    expect_error(
        "mask",
        [](Call& c) {
          c.visibility.mask = mask;
          c.visibility.mask_stride = 600;
        },
        method);
  }
}

TEST(Errors, ScoreOfTopK) {
  expect_error(
      "unknown score", [](Call& c) { c.options.plan.score = static_cast<Score>(99); },
      Method::kTopK);
}

TEST(Errors, IndexOfRouted) {
  expect_error(
      "segment", [](Call& c) { c.options.index.segment = 0; }, Method::kRouted);
  expect_error(
      "cluster", [](Call& c) { c.options.index.cluster = -1; }, Method::kRouted);
}

TEST(Errors, PlannersNeedWhatTheyUse) {
  const Data data((Case()));
  EXPECT_THROW(make_routed_planner(data.plan_inputs(), {}), Error);
  const Data many(Case{.n_kv = 600});
  EXPECT_THROW(make_topk_planner(many.plan_inputs(), {}), Error);
  EXPECT_THROW(make_planner(data.plan_inputs(), {}), Error) << "auto is not a planner";
}

TEST(Errors, WorkspaceOfNonsense) {
  const Data data((Case()));
  EXPECT_THROW(workspace_bytes(Tensor{}, data.k.view(), data.v.view(), {}, 1), Error);
  Tensor k = data.k.view();
  k.stride = {0, 0, 0, 1};
  k.shape[2] = kHuge;
  EXPECT_THROW(workspace_bytes(data.q.view(), k, k, {}, 1), Error);
}

}  // namespace
}  // namespace prescore::test
