// The operator's rows, and classification of whatever a driver may say: a loss at a commit is never
// something that may be repeated blindly.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/assert.h"
#include "defib/connection/classify.h"
#include "defib/connection/failure.h"
#include "defib/connection/traces.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib::connection;
  if (size < 8) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 8, size - 8);
  Classifier classifier;
  (void)classifier.add_lines(text);
  for (int engine = 0; engine < 6; ++engine) {
    (void)leaves_traces(static_cast<Engine>(engine), text);
    (void)refused_in_transaction(static_cast<Engine>(engine), text);
  }
  (void)shown_sql(text);
  Diagnostic record;
  record.sqlstate = text.substr(0, 5);
  record.native = static_cast<std::int64_t>(data[3]) << 8 | data[4];
  record.message = text;
  const std::vector<Diagnostic> records = {record};
  Failure failure;
  failure.engine = static_cast<Engine>(data[0] % 6);
  failure.driver = static_cast<DriverKind>(data[1] % 7);
  failure.phase = static_cast<Phase>(data[2] % 5);
  failure.records = records;
  failure.connection_lost = (data[5] & 1) != 0;
  failure.timed_out = (data[5] & 2) != 0;
  failure.in_transaction = (data[5] & 4) != 0;
  const Classifier plain;
  const FailureClass found = plain.classify(failure).failure_class;
  if (failure.phase == Phase::kCommit && failure.timed_out) {
    DEFIB_ASSERT(found == FailureClass::kCommitAmbiguous);
  }
  return 0;
}
