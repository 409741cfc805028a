// defib-store: the command line of the store. `defib store VERB ...` runs this program.

#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <new>
#include <string_view>

#include "apps/defib-store/commands.h"

namespace {

using defib::store_program::Arguments;

class Program {
 public:
  Program() {
    app_.require_subcommand(1);
    app_.footer(
        "Exit codes: 0 done; 1 failed or unhealthy; 2 wrong usage or input; 3 refused (locked, or\n"
        "recovery needed but not allowed); 4 interrupted.");
    add_load();
    add_reading();
    add_writing();
    add_care();
  }

  int run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::Success& success) {
      return app_.exit(success);
    } catch (const CLI::ParseError& error) {
      return wrong_usage(error.what(), argc, argv);
    }
    for (const auto& [verb, function] : verbs_) {
      if (!verb->parsed()) continue;
      arguments_.verb = verb->get_name();
      try {
        return function(arguments_);
      } catch (const std::bad_alloc&) {
        return out_of_memory();
      }
    }
    return 2;
  }

 private:
  // The kernel hands out memory that it does not have, but not above this process's limit.
  int out_of_memory() {
    return defib::store_program::report(
        defib::Error(defib::Code::kInsufficientResources, "this process may not use more memory")
            .with("resource", "address space")
            .with("required", "unknown")
            .with("available", "0")
            .suggest("raise its limit (`ulimit -v` shows it)"),
        arguments_);
  }

  int wrong_usage(std::string what, int argc, char** argv) {
    std::string help = "defib store";
    const std::string first = argc > 1 ? argv[1] : "";
    const auto is_it = [&first](const auto& verb) { return verb.first->get_name() == first; };
    if (!first.empty() && first[0] != '-' && std::ranges::none_of(verbs_, is_it)) {
      what = "there is no command '" + first + "'";
    }
    for (const auto& [verb, function] : verbs_) {
      if (verb->parsed()) help += " " + verb->get_name();
    }
    // Where the line was not understood, neither was what came after the fault.
    for (int i = 1; i < argc; ++i) {
      if (std::string_view(argv[i]) == "--json") arguments_.json = true;
    }
    defib::Error error(defib::Code::kWrongUsage, what);
    return defib::store_program::report(
        std::move(error).suggest("see `" + help + " --help` for what there is"), arguments_);
  }

  CLI::App* verb(const char* name, const char* text, const char* example,
                 int (*function)(const Arguments&)) {
    CLI::App* verb = app_.add_subcommand(name, text);
    verb->footer(std::string("Example: defib store ") + example);
    verb->add_option("DIR", arguments_.dir, "The store's directory")->required();
    verb->add_flag("--json", arguments_.json, "Output for machines");
    verbs_.emplace_back(verb, function);
    return verb;
  }

  void add_load() {
    CLI::App* load =
        verb("load", "Apply commands from standard input, and print `ok N` after each commit",
             "load DIR --sync group --batch 100 < commands.tsv", defib::store_program::run_load);
    load->add_option("--sync", arguments_.sync,
                     "each: a sync a commit; group: commits share syncs; none: survives a kill, "
                     "not a power failure at once (default each)")
        ->check(CLI::IsMember({"each", "group", "none"}));
    load->add_option("--batch", arguments_.batch, "Commit by itself every N commands")
        ->check(CLI::PositiveNumber);
    load->add_option("--keep-log", arguments_.keep_log,
                     "Keep at least this many bytes of log behind the checkpoint, for `restore "
                     "--log`: a number, or one with kb, mb or gb (default 0)")
        ->transform(CLI::AsSizeValue(false));
  }

  void add_reading() {
    CLI::App* dump = verb("dump", "Print every record as TABLE<TAB>KEY<TAB>VALUE, in order",
                          "dump DIR orders", defib::store_program::run_dump);
    dump->add_option("TABLE", arguments_.table, "Only this table");
    CLI::App* get =
        verb("get", "Print one value", "get DIR orders 42", defib::store_program::run_get);
    get->add_option("TABLE", arguments_.table, "The table, escaped as in dump")->required();
    get->add_option("KEY", arguments_.key, "The key, escaped as in dump")->required();
    for (CLI::App* reader : {dump, get}) {
      reader->add_flag("--no-recover", arguments_.no_recover,
                       "Fail with exit code 3 where recovery is needed");
    }
  }

  void add_writing() {
    CLI::App* put = verb("put", "Write one record durably", "put DIR orders 42 open",
                         defib::store_program::run_put);
    CLI::App* del = verb("del", "Delete one record durably", "del DIR orders 42",
                         defib::store_program::run_del);
    for (CLI::App* writer : {put, del}) {
      writer->add_option("TABLE", arguments_.table, "The table, escaped as in dump")->required();
      writer->add_option("KEY", arguments_.key, "The key, escaped as in dump")->required();
    }
    put->add_option("VALUE", arguments_.value, "The value, escaped as in dump")->required();
  }

  void add_care() {
    using namespace defib::store_program;
    verb("status", "What the files say, without changing them", "status DIR --json", run_status);
    add_recover();
    verb("verify", "Check every byte, without changing any", "verify DIR", run_verify);
    CLI::App* inspect = verb("inspect", "Show what the files hold", "inspect DIR wal", run_inspect);
    const std::vector<std::string> parts = {"wal", "pages", "dwb", "files", "tables", "checkpoint"};
    inspect
        ->add_option("PART", arguments_.part,
                     "wal, pages, dwb, files, tables or checkpoint (default: all)")
        ->check(CLI::IsMember(parts));
    add_copies();
    verb("compact", "Merge all files into one and drop what is erased, in place", "compact DIR",
         run_compact);
    verb("migrate", "Bring a store of an older format version up to date, in place", "migrate DIR",
         run_migrate);
  }

  void add_recover() {
    CLI::App* recover =
        verb("recover", "Run recovery and show its stages", "recover DIR --timeout-per-stage 5m",
             defib::store_program::run_recover);
    recover->add_option_function<std::string>(
        "--timeout-per-stage",
        [this](const std::string& text) {
          arguments_.stage_timeout = defib::os::parse_duration(text);
          if (arguments_.stage_timeout <= defib::os::Duration::zero()) {
            throw CLI::ValidationError("--timeout-per-stage", "'" + text + "' is not a duration");
          }
        },
        "The longest that one stage may take (default 10m)");
    recover->add_option_function<std::vector<std::string>>(
        "--stage-timeout", [this](const std::vector<std::string>& texts) { add_limits(texts); },
        "STAGE=D: the longest that this one may take; may be repeated");
    recover->add_flag("--dry-run", arguments_.dry_run,
                      "Say what recovery would do and what it would need, and change nothing");
    recover->add_flag("--progress", arguments_.progress,
                      "Show progress on standard error, also where that is no terminal");
  }

  void add_limits(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      const std::size_t equals = std::min(text.find('='), text.size());
      const auto limit = defib::os::parse_duration(text.substr(std::min(equals + 1, text.size())));
      if (equals == 0 || limit <= defib::os::Duration::zero()) {
        throw CLI::ValidationError("--stage-timeout", "'" + text + "' is not STAGE=DURATION");
      }
      arguments_.stage_timeouts[text.substr(0, equals)] = limit;
    }
  }

  void add_copies() {
    using namespace defib::store_program;
    CLI::App* backup = verb("backup", "Copy a store, also while it is in use",
                            "backup DIR --to NEWDIR", run_backup);
    CLI::App* restore =
        verb("restore", "Make a store from a backup, and from a log what was committed since",
             "restore BACKUP --to NEWDIR --log DIR --to-commit 1234", run_restore);
    restore->add_option("--log", arguments_.log,
                        "The store whose log is replayed, also where it is damaged");
    restore->add_option("--to-commit", arguments_.to_commit,
                        "The last commit to be replayed (default: all)");
    CLI::App* repair = verb("repair", "Save what is readable of a damaged store into a new one",
                            "repair DIR --to NEWDIR", run_repair);
    for (CLI::App* copy : {backup, restore, repair}) {
      copy->add_option("--to", arguments_.to, "A directory that does not exist yet")->required();
    }
  }

  CLI::App app_{"Load, dump, inspect, verify, recover, compact and repair a store", "defib store"};
  Arguments arguments_;
  std::vector<std::pair<CLI::App*, int (*)(const Arguments&)>> verbs_;
};

}  // namespace

int main(int argc, char** argv) {
  // A file that may not grow any more (`ulimit -f`) is an error of that write, not the end.
  ::signal(SIGXFSZ, SIG_IGN);
  return Program().run(argc, argv);
}
