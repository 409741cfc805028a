// defib-dbn: the records of a DBN file as JSON lines. `defib dbn FILE` runs this program.

#include <CLI/CLI.hpp>
#include <string_view>

#include "apps/defib-dbn/dump.h"

int main(int argc, char** argv) {
  using namespace defib;
  dbn_program::Arguments arguments;
  CLI::App app{"The records of a DBN file (Databento's market data) as JSON lines", "defib dbn"};
  app.footer(
      "Example: defib dbn trades.dbn.zst --symbol ESH1 --limit 10\n"
      "Exit codes: 0 done; 1 the data is damaged or ends too early; 2 wrong usage; 4 interrupted.");
  app.add_option("FILE", arguments.file,
                 "DBN of version 1 to 3, compressed with zstd or not; -: standard input (default)");
  app.add_flag("--metadata", arguments.metadata, "Print the metadata as one document, no records");
  app.add_option("-n,--limit", arguments.limit, "Print so many records")
      ->check(CLI::PositiveNumber);
  app.add_option("--schema", arguments.schema, "Only records of this schema, such as trades");
  app.add_option("--rtype", arguments.rtype, "Only records of this type, such as symbol_mapping");
  app.add_option("--symbol", arguments.symbol, "Only records of this symbol");
  app.add_flag("--fragment", arguments.fragment,
               "The file has records and no metadata (as where it is named .frag)");
  app.add_option("--dbn-version", arguments.version,
                 "Of a fragment (default: by the first record that tells it)")
      ->check(CLI::Range(1, 3));
  app.add_flag("--upgrade", arguments.upgrade, "Show older records with the fields of version 3");
  app.add_flag("--json", arguments.json, "Errors as one JSON document on standard output");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    for (int i = 1; i < argc; ++i) {
      if (std::string_view(argv[i]) == "--json") arguments.json = true;
    }
    return dbn_program::report(
        Error(Code::kWrongUsage, error.what()).suggest("see `defib dbn --help`"), arguments.json);
  }
  const Result<int> code = dbn_program::dump(arguments);
  return code ? *code : dbn_program::report(code.error(), arguments.json);
}
