// `compact`: one base instead of base and runs, and what it saves.

#include <fmt/core.h>

#include "apps/defib-store/commands.h"
#include "apps/defib-store/interrupt.h"
#include "defib/store/store.h"

namespace defib::store_program {
namespace {

using store::Store;
using wire::Json;

Json to_json(const store::Status& status) {
  return Json::object({{"bytes", status.checkpoint_bytes + status.log_bytes},
                       {"checkpoint_bytes", status.checkpoint_bytes},
                       {"log_bytes", status.log_bytes},
                       {"runs", status.runs}});
}

Result<> compact(const Arguments& arguments) {
  Interrupt interrupt;
  store::Options options;
  options.create = false;
  options.stop = interrupt.token();
  DEFIB_TRY_ASSIGN(const store::Status before, Store::status(arguments.dir, {}));
  DEFIB_TRY_ASSIGN(const auto store, Store::open(arguments.dir, options));
  interrupt.end_at_once();
  DEFIB_TRY(store->compact());
  DEFIB_TRY(store->close());
  DEFIB_TRY_ASSIGN(const store::Status after, Store::status(arguments.dir, {}));
  const std::uint64_t bytes_before = before.checkpoint_bytes + before.log_bytes;
  const std::uint64_t bytes_after = after.checkpoint_bytes + after.log_bytes;
  if (arguments.json) {
    print(Json::object({{"schema", "defib.store_compact/1"},
                        {"bytes_before", bytes_before},
                        {"bytes_after", bytes_after},
                        {"last_commit", after.last_commit},
                        {"before", to_json(before)},
                        {"after", to_json(after)}}));
  } else {
    fmt::print("{}: {} bytes before, {} bytes after ({} of base and runs, {} of log)\n",
               arguments.dir, bytes_before, bytes_after, after.checkpoint_bytes, after.log_bytes);
  }
  return {};
}

}  // namespace

int run_compact(const Arguments& arguments) {
  return finish(compact(arguments), arguments);
}

}  // namespace defib::store_program
