// The pool's commits in doubt, kept in a store: what `commit_resolution = durable` writes to.
//
// Thread rule: any thread. The store outlives it.

#pragma once

#include <memory>
#include <string>

#include "defib/connection/resolution.h"
#include "defib/store/store.h"

namespace defib::bindings {

inline constexpr const char* kInDoubtTable = "connection.in_doubt";

// put() commits with power durability; commits of several threads share one sync. erase() commits
// with process durability: a record that a power failure brings back is resolved once more.
std::unique_ptr<connection::InDoubtLog> in_doubt_in_store(store::Store& store);

}  // namespace defib::bindings
