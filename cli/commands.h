// The subcommands. Each adds its flags to the application and, where chosen, runs by its callback,
// throwing BadInput, Failed or Error.
#pragma once

namespace CLI {
class App;
}

namespace prescore::cli {

void add_ppl(CLI::App& app);
void add_run(CLI::App& app);
void add_info(CLI::App& app);
void add_profile(CLI::App& app);
void add_bench(CLI::App& app);
void add_experiments(CLI::App& app);

}  // namespace prescore::cli
