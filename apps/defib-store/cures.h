// What a person, or a script, can do about an error: commands that can be pasted as they stand.
//
// A suggested command never changes what an error was about in a way that cannot be undone: a
// damaged store is read into a new one, rights are granted, limits are raised, recovery runs again.

#pragma once

#include <string>
#include <vector>

#include "apps/defib-store/commands.h"

namespace defib::store_program {

using Command = std::vector<std::string>;

struct Cure {
  std::vector<Command> commands;  // to be run in this order; empty: there is none to be named
  std::string action;  // in words, with the commands in it; empty: the error's own words will do
};

Cure cure_of(const Error& error, const Arguments& arguments);

// A word, and a command, as a shell reads it.
std::string quoted(const std::string& word);
std::string line_of(const Command& command);
// A directory beside the store that does not exist.
std::string new_directory(const std::string& dir);

}  // namespace defib::store_program
