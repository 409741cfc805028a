// defib-trade: recovers, reconciles and approves; `defib recover|reconcile|approve|checklist` and
// `defib explain VERDICT` run this program.

#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

#include "apps/defib-trade/commands.h"
#include "defib/os/files.h"

namespace {

using namespace defib;
using trade_program::Arguments;

std::string environment(const char* name) {
  const char* value = ::getenv(name);
  return value ? value : "";
}

std::string default_state_dir() {
  if (std::string dir = environment("DEFIB_STATE_DIR"); !dir.empty()) return dir;
  if (std::string dir = environment("XDG_STATE_HOME"); !dir.empty()) {
    return os::join_path(dir, "defib");
  }
  if (::geteuid() == 0) return "/var/lib/defib";
  return os::join_path(environment("HOME"), ".local/state/defib");
}

class Program {
 public:
  Program() {
    app_.name("defib");
    app_.require_subcommand(1);
    app_.footer(
        "Exit codes: 0 done; 1 failed, or differences that nothing explains; 2 wrong usage or\n"
        "configuration; 3 refused: a gate, a lock, an approval.");
    add_recover();
    add_reconcile();
    add_approve();
    add_explain();
    add_kill();
  }

  int run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::Success& success) {
      return app_.exit(success);
    } catch (const CLI::ParseError& error) {
      return trade_program::report(Error(Code::kWrongUsage, error.what()), arguments_.json);
    }
    if (arguments_.state_dir.empty()) arguments_.state_dir = default_state_dir();
    for (const auto& [command, function] : commands_) {
      if (!command->parsed()) continue;
      const Result<int> code = function(arguments_);
      return code ? *code : trade_program::report(code.error(), arguments_.json);
    }
    return trade_program::kWrongUsage;
  }

 private:
  CLI::App* command(const char* name, const char* text, const char* example,
                    Result<int> (*function)(const Arguments&)) {
    CLI::App* command = app_.add_subcommand(name, text);
    command->footer(std::string("Example: defib ") + example);
    command->add_option("--state-dir", arguments_.state_dir,
                        "Where defib keeps its state (default $DEFIB_STATE_DIR)");
    command->add_flag("--json", arguments_.json, "Output for machines");
    commands_.emplace_back(command, function);
    return command;
  }

  CLI::App* with_store(CLI::App* command) {
    command->add_option("--store", arguments_.store_dir,
                        "The engine's store (default STATE_DIR/trading)");
    return command;
  }

  CLI::App* with_venue(CLI::App* command) {
    command->add_option("-c,--config", arguments_.config, "The configuration (default defib.toml)");
    return with_store(command);
  }

  void add_recover() {
    CLI::App* recover = with_venue(command(
        "recover",
        "Recover the state and settle unresolved intents, without trading: the engine resumes when "
        "it starts. Needs the store's lock.",
        "recover -c defib.toml", trade_program::recover));
    recover->add_option("--wait", arguments_.wait,
                        "How long to wait for fences of unresolved intents (default 15s)");
    CLI::App* checklist = with_venue(
        command("checklist",
                "Say what a recovery would find and decide, and change nothing; or, with --manual, "
                "walk a person through the manual procedure",
                "checklist --manual latest --by 'Ada Lovelace'", trade_program::checklist));
    CLI::Option* manual = checklist->add_option(
        "--manual", arguments_.manual, "The manual procedure of this incident (latest, or its id)");
    checklist->add_option("--by", arguments_.by, "The person who answers")->needs(manual);
    checklist->add_option("--answer", arguments_.answers, "KEY=yes|no|n/a[:NOTE]; may be repeated")
        ->needs(manual);
    checklist->add_flag("--close", arguments_.close, "End the procedure; every item is answered")
        ->needs(manual);
    for (CLI::App* each : {recover, checklist}) {
      each->add_option("--venue", arguments_.venue, "Of several accounts (default: the first)");
    }
  }

  void add_kill() {
    CLI::App* kill =
        command("kill",
                "Stop sending and cancel everything of a scope, at once, verified by "
                "reading it back, and recorded",
                "kill --all --by 'Ada Lovelace' --reason 'odd fills'", trade_program::kill);
    kill->add_option("-c,--config", arguments_.config, "The configuration (default defib.toml)");
    kill->add_flag("--all", arguments_.all, "Every venue and strategy");
    kill->add_option("--venue", arguments_.venue, "One venue");
    kill->add_option("--strategy", arguments_.strategy, "One strategy");
    kill->add_option("--by", arguments_.by, "Who does it");
    kill->add_option("--reason", arguments_.reason, "Why");
    kill->add_option("--release", arguments_.release,
                     "Release a scope instead: all, venue:NAME or strategy:NAME");
    kill->add_flag("--status", arguments_.status, "Only show what is engaged");
    kill->add_option("--arm-switch", arguments_.arm_switch,
                     "Then arm the venue's dead-man's switch for so long, where it has one");
  }

  void add_reconcile() {
    CLI::App* reconcile = with_venue(command(
        "reconcile", "Compare the ledger with the venue; read-only, also beside a running engine",
        "reconcile --json", trade_program::reconcile));
    reconcile->add_option("--venue", arguments_.venue, "Of several accounts (default: all)");
    CLI::Option* apply = reconcile->add_flag(
        "--apply", arguments_.apply,
        "Let the ledger follow the venue, also in what nothing explains; needs the store's lock");
    reconcile->add_option("--reason", arguments_.reason, "Why, for the journal")->needs(apply);
    reconcile->add_option("--by", arguments_.by, "Who, for the journal")->needs(apply);
  }

  void add_approve() {
    CLI::App* approve = command("approve", "Approve a recovery plan, once and for a limited time",
                                "approve latest --by 'Ada Lovelace'", trade_program::approve);
    approve->add_option("PLAN", arguments_.subject, "A plan's hash, a part of it, or latest")
        ->required();
    approve->add_option("--by", arguments_.by, "The person who approves")->required();
    approve->add_option("--ttl", arguments_.ttl, "How long it holds (default 10m, at most 24h)");
  }

  void add_explain() {
    CLI::App* explain =
        with_store(command("explain", "Show the rule, the input and what would flip a decision",
                           "explain latest", trade_program::explain));
    with_store(command("intents", "Every order intent that was ever logged, and what became of it",
                       "intents > intents.txt", trade_program::intents));
    explain->alias("explain-verdict");
    explain->add_option("--from", arguments_.from,
                        "A decision's document or an incident's file, instead of the store");
    explain->add_option("-c,--config", arguments_.config, "For the thresholds of `gates`");
    explain
        ->add_option("VERDICT", arguments_.subject, "A decision's id, its rule, latest, or gates")
        ->required();
  }

  CLI::App app_{"Recovery of trading services"};
  Arguments arguments_;
  std::vector<std::pair<CLI::App*, Result<int> (*)(const Arguments&)>> commands_;
};

}  // namespace

int main(int argc, char** argv) {
  Program program;
  return program.run(argc, argv);
}
