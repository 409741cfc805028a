// An incident as `defib incident show --json` tells it, from the lines of its file.

#pragma once

#include <string>
#include <vector>

#include "defib/recovery/incident.h"
#include "defib/wire/json.h"

namespace defib::daemon {

// {"schema":"defib.incident/1","id","service","opened_at","closed_at","cause","outcome",
//  "head_hash",
//  "classification":{...},"threads":[...],"timeline":[{"at","mono_ns","event",...}]}
// The threads stand once, at the top; `lines` must not be empty.
wire::Json incident_document(const std::vector<wire::Json>& lines);
// Adds what lies beside the incident's file: `bundle`, `group` (how often its bug was seen, null
// where it is not counted), `changes` (since the last good run, null where it is not known), and
// `advice`.
void add_context(wire::Json& incident, const std::string& state_dir);
// {"path","failures":[{"failure","complete","parts":[{"name","bytes","cut"}],"missing":[...]}]};
// null where the incident has no bundle.
wire::Json bundle_document(const std::string& state_dir, const std::string& id);

}  // namespace defib::daemon
