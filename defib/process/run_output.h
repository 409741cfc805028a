// The end of what one run of a service wrote, by stream: what a cause is read from. The log files
// hold the output of every run; the index beside them (log_index_format.h) tells when each byte
// came, so that what an earlier or a later process said does not explain this one's end.
//
// Bytes without an index, or behind a damaged record, are left out: nobody knows whose they are.
// Thread rule: one thread.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace defib::process {

struct RunWindow {
  std::int64_t from_mono_ns = 0;           // CLOCK_MONOTONIC, of this boot
  std::int64_t until_mono_ns = INT64_MAX;  // a replacement's start
  std::size_t max_bytes = 64 * 1024;       // of each stream
};

struct RunOutput {
  std::string out, err;  // stdout, stderr; cut at a line's start where there was more
};

// Of the service whose directory this is; empty where nothing was written.
RunOutput read_run_output(const std::string& service_dir, const RunWindow& window);

}  // namespace defib::process
