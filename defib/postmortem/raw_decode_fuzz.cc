// A raw snapshot is of a process that may be corrupted: no bytes bring its reader down.

#include "defib/postmortem/minicore.h"
#include "defib/postmortem/raw_decode.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace defib::postmortem;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  ProcessFacts facts;
  decode_facts(bytes, facts);
  Snapshot snapshot;
  snapshot.threads.emplace_back().crashed = true;
  if (decode_snapshot(bytes, RawFiles::kLeave, snapshot)) make_minicore(snapshot);
  return 0;
}
