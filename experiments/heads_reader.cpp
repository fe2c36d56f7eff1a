#include "heads_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "common/layer_set.h"
#include "errors.h"
#include "prescore/attention.h"
#include "protocol.h"

namespace prescore::experiments {

HeadReader::HeadReader(const cli::Model& model, const cli::ModelFlags& flags,
                       const HeadReading& reading, host::ModelIdentity identity,
                       std::vector<llama_token> text, const Options& sparse)
    : model_(model), flags_(flags), reading_(reading), identity_(std::move(identity)),
      text_(std::move(text)), sparse_(sparse) {
  cli::Protocol p;
  p.ctx = reading.ctx, p.tail_tokens = reading.tail_tokens;
  split_ = p.split(sparse.plan.tile);
  if (llama_vocab_get_add_bos(model.vocab())) text_[0] = llama_vocab_bos(model.vocab());
}

cli::Session& HeadReader::session() {
  if (!session_) {
    cli::Protocol p;
    p.ctx = reading_.ctx;
    session_.emplace(model_, flags_, reading_.ctx, p.batch(), p.outputs(sparse_.plan.tile));
  }
  return *session_;
}

Options HeadReader::dense_options() const {
  Options o = sparse_;
  o.plan.method = Method::kDense;
  return o;
}

void HeadReader::prompt(const Options& o, std::shared_ptr<const host::HeadProfile> profile) {
  host::OpRunner& runner = session().host().runner();
  runner.set_profile(std::move(profile));
  runner.set_options(o);
  session().clear();
  session().host().reset_stats();
  session().read(text_, 0, split_);
  const host::Stats& stats = session().host().stats();
  if (stats.taken == 0) throw cli::Failed("no attention of this model can be taken over");
  if (stats.unprofiled > 0)
    throw cli::Failed(fmt::format("heads cannot be told apart ({})", stats.unprofiled_why));
}

std::vector<double> HeadReader::tail(const Options& o) {
  session().host().runner().set_options(o);
  session().truncate(split_);
  std::vector<double> losses;
  session().score(text_, split_, reading_.ctx, cli::kScoredAtOnce, {}, &losses);
  return losses;
}

Tails HeadReader::dense() {
  prompt(dense_options(), nullptr);
  Tails t;
  t.production = t.strict = tail(dense_options());
  return t;
}

Tails HeadReader::sparse() { return with(nullptr); }

Tails HeadReader::with(std::size_t head, Roles roles) {
  host::HeadProfile p = host::plain_profile(identity_);
  for (std::string& layer : p.prompt) std::fill(layer.begin(), layer.end(), roles.others);
  const auto h = static_cast<std::size_t>(identity_.heads);
  p.prompt[head / h][head % h] = roles.head;
  p.decode = p.prompt;
  return with(std::make_shared<const host::HeadProfile>(std::move(p)));
}

Tails HeadReader::with(std::shared_ptr<const host::HeadProfile> profile) {
  prompt(sparse_, std::move(profile));
  Options strict = sparse_;
  strict.plan.routing = Routing::kStrict;
  Tails t;
  t.production = tail(dense_options());
  t.strict = tail(strict);
  return t;
}

nlohmann::json HeadReader::certificate(Method method) {
  const auto n = static_cast<std::size_t>(identity_.layers * identity_.heads);
  std::vector<double> missing(n, 0.0), error(n, 0.0), queries(n, 0.0);
  Options o = sparse_;
  o.plan.method = method, o.index.sinks = o.plan.sinks;
  o.certify.samples = reading_.samples, o.certify.seed = o.plan.seed;
  // The other threads of the host wait for this one.
  const std::unique_ptr<Executor> executor = make_serial_executor();
  std::string problem;
  host::OpRunner& runner = session().host().runner();
  runner.on_inputs([&](const std::string& cache, const Tensor& q, const Tensor& k, const Tensor& v,
                       const Visibility& visible, float scale) {
    const std::int64_t layer = host::layer_of_cache(cache);
    if (layer < 0 || layer >= identity_.layers || q.shape[1] != identity_.heads) return;
    const std::int64_t h_q = q.shape[1], n_q = q.shape[2], d_v = v.shape[3];
    std::vector<float> out(static_cast<std::size_t>(h_q * n_q * d_v));
    o.scale = scale;
    try {
      const Report report = attention(
          q, k, v, visible, {},
          State{MutTensor::contiguous(out.data(), DType::kF32, 1, h_q, n_q, d_v), nullptr}, o,
          *executor);
      for (std::size_t h = 0; h < report.heads.size(); ++h) {
        const std::size_t at = static_cast<std::size_t>(layer * identity_.heads) + h;
        const auto weight = static_cast<double>(report.heads[h].queries);
        missing[at] += weight * (1 - report.heads[h].mass), queries[at] += weight;
        error[at] = std::max(error[at], report.heads[h].output_error);
      }
    } catch (const std::exception& e) {  // llama.cpp calls this: nothing must pass it
      problem = e.what();
    }
  });
  prompt(dense_options(), nullptr);
  runner.on_inputs({});
  if (!problem.empty()) throw cli::Failed(problem);
  for (std::size_t i = 0; i < n; ++i)
    if (queries[i] > 0) missing[i] /= queries[i];
  return {{"missing", missing}, {"error", error}};
}

}  // namespace prescore::experiments
