// prescore: reads long prompts with sparse attention, measures what that costs in quality.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>

#include "commands.h"
#include "errors.h"
#include "prescore/types.h"

namespace {

int complain(std::string sentence, int exit_code) {
  std::replace(sentence.begin(), sentence.end(), '\n', ' ');
  fmt::print(stderr, "prescore: {}\n", sentence);
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace prescore;
  CLI::App app("prescore: sparse long-context attention", "prescore");
  app.set_version_flag("--version", std::string(version()));
  app.require_subcommand(1);
  cli::add_ppl(app);
  cli::add_run(app);
  cli::add_profile(app);
  cli::add_info(app);
  cli::add_bench(app);
  cli::add_experiments(app);
  try {
    app.parse(argc, argv);  // runs the subcommand
    return 0;
  } catch (const CLI::Success& e) {
    return app.exit(e);  // --help, --version
  } catch (const CLI::ParseError& e) {
    return complain(std::string(e.what()) + " (--help lists what there is)", cli::kExitBadInput);
  } catch (const cli::BadInput& e) {
    return complain(e.what(), cli::kExitBadInput);
  } catch (const Error& e) {
    return complain(e.what(), cli::kExitBadInput);
  } catch (const std::bad_alloc&) {
    return complain("out of memory", cli::kExitFailed);
  } catch (const std::exception& e) {
    return complain(e.what(), cli::kExitFailed);
  }
}
