// Advice: what a person should do about a failure, by its cause: what to check, in order, with the
// command for it, and when it is safe to resume.
//
// Every cause of docs/cli.md has one. What is known of the failure decides which steps are given
// and what they name. An exchange whose connection was lost in the same failure adds its own.
// Thread rule: pure functions.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/wire/json.h"

namespace defib::report {

struct AdviceFacts {
  std::string cause, subtype;
  std::string service = "NAME";     // as the commands name it
  std::string incident = "ID";      // likewise
  std::string at;                   // RFC 3339, of the failure; empty: not known
  std::string exe;                  // the program; empty: not known
  std::string core;                 // path of its core file; empty: there is none
  bool has_stack = false;           // of the crashed thread
  bool given_up = false;            // it is not started again by itself
  bool changed = false;             // something changed since the last good run
  bool venue_disconnected = false;  // an exchange's connection was lost in the same incident
  std::string kill_scope;           // the record of a kill switch, in which nothing has failed
};
// From an incident as `defib incident show --json` gives it.
AdviceFacts advice_facts(const wire::Json& incident);

struct AdviceStep {
  std::string text;
  std::string command;  // to be run as it stands; may be empty
};
struct Advice {
  std::string title;
  std::vector<AdviceStep> steps;  // in the order of doing them
  std::string resume;             // when it is safe to go on
};
// Never empty: a cause that is not known is treated as "unknown".
Advice advise(const AdviceFacts& facts);

// {"title","steps":[{"text","command"}],"resume"}; a step without a command has null.
wire::Json to_json(const Advice& advice);
// For a terminal, lines of at most 96 columns.
std::string to_text(const Advice& advice);

bool is_cause(std::string_view word);
std::vector<std::string_view> advised_causes();

}  // namespace defib::report
