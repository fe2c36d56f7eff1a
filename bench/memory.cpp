// Memory of one routed call beyond K, V and outputs: what the library says (KeyIndex::bytes and
// workspace_bytes) and what the process really took: its largest resident size during the call,
// less that before it.
//
//   memory [--n 131072] [--packed] [--threads 0] [--json FILE]
#include <fstream>
#include <string>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "prescore/attention.h"
#include "support/data.h"
#include "support/measure.h"

namespace {

using namespace prescore;

/// A line of /proc/self/status ("VmRSS", "VmHWM") in bytes; 0 where there is none.
std::int64_t status_bytes(const std::string& name) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.rfind(name + ":", 0) == 0) return 1024 * std::atoll(line.c_str() + name.size() + 1);
  return 0;
}

/// Largest resident size from now on; getrusage's cannot be reset.
void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

/// Memory that was freed but kept by malloc would hide growth.
void give_back() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

double mebi(std::int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

void run(const bench::Args& args) {
  bench::Shape shape;
  shape.n = args.number("--n", 131072);
  Options options;
  options.plan.method = Method::kRouted;
  options.plan.budget = args.number("--budget", options.plan.budget);
  options.index.packed = args.number("--packed", 0) != 0;
  options.threads = static_cast<int>(args.number("--threads", 0));
  const auto executor = make_executor(options.threads);
  const bench::Data data = bench::Data::gaussian(shape, *executor);
  std::vector<std::byte> out(
      static_cast<std::size_t>(shape.h_q * shape.n * shape.d * size_of(shape.dtype)), std::byte{1});
  const State state{MutTensor::contiguous(out.data(), shape.dtype, 1, shape.h_q, shape.n, shape.d)};
  const std::int64_t kv = 2 * shape.h_kv * shape.n * shape.d * size_of(shape.dtype);

  give_back();
  reset_peak();
  const std::int64_t before = status_bytes("VmRSS");
  attention(data.q(), data.k(), data.v(), state, options, *executor);
  const std::int64_t grown = status_bytes("VmHWM") - before;

  KeyIndex index(options.index);
  index.extend(data.k(), data.v(), *executor);
  const std::int64_t said_index = index.bytes();
  const std::int64_t said =
      workspace_bytes(data.q(), data.k(), data.v(), options, executor->width());

  const auto part = [&](std::int64_t x) {
    return static_cast<double>(x) / static_cast<double>(kv);
  };
  bench::Row row;
  row.add("part", "memory").add("n", shape.n).add("packed", options.index.packed);
  row.add("budget", options.plan.budget).add("threads", executor->width());
  row.add("kv_bytes", kv).add("index_bytes", said_index).add("workspace_bytes", said);
  row.add("rss_growth_bytes", grown).add("index_share", part(said_index));
  row.add("workspace_share", part(said)).add("rss_growth_share", part(grown));
  std::printf(
      "%lld keys%s: K + V %.1f MiB; index %.1f MiB (%.1f %%); index and workspace %.1f MiB "
      "(%.1f %%) as reported; resident memory grew by %.1f MiB (%.1f %%)\n",
      static_cast<long long>(shape.n), options.index.packed ? ", packed copy" : "", mebi(kv),
      mebi(said_index), 100 * part(said_index), mebi(said), 100 * part(said), mebi(grown),
      100 * part(grown));
  if (!bench::write_rows(args.text("--json", ""), {row}))
    throw std::runtime_error("cannot write " + args.text("--json", ""));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(bench::Args(argc, argv));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "memory: %s\n", e.what());
    return 1;
  }
}
