// Making the bundle of one failure. Thread rule: one thread.

#pragma once

#include "defib/base/error.h"
#include "defib/daemon/bundle_request.h"

namespace defib::bundle {

// At once after the failure.
Result<> collect(const daemon::BundleRequest& request);
// Of a process that lives in health, or ended well: what it was started with.
Result<> note_good_run(const daemon::BundleRequest& request);
// A minute later: what the logs and the time line then hold.
Result<> complete(const daemon::BundleRequest& request);
// The same, by what the manifest tells; where it is complete nothing is done.
Result<> complete_by_manifest(const std::string& state_dir, const std::string& directory);

// `defib incident export`: to `out` (empty: ID.tar.zst here). The archive's path.
Result<std::string> export_bundle(const std::string& state_dir, const std::string& id_or_prefix,
                                  std::string out);

}  // namespace defib::bundle
