// How errors are shown: what happened, why, and a command that can be run as it stands.

#include <fmt/core.h>

#include <cstdio>
#include <string_view>

#include "apps/defib-store/commands.h"
#include "apps/defib-store/cures.h"

namespace defib::store_program {
namespace {

using wire::Json;
// Commands in `text` that name the store as it is called, quoted where a shell needs it.
std::string with_quotes(std::string text, const std::string& dir) {
  const std::string word = quoted(dir);
  if (word == dir) return text;
  const std::string plain = " " + dir;
  for (std::size_t at = text.find('`'); at != std::string::npos;) {
    std::size_t end = text.find('`', at + 1);
    const std::size_t found = text.find(plain, at);
    if (end != std::string::npos && found < end) {
      text.replace(found + 1, dir.size(), word);
      end += word.size() - dir.size();
    }
    at = end == std::string::npos ? end : text.find('`', end + 1);
  }
  return text;
}

// "DIR" and "NEWDIR" as the words that they stand for.
std::string with_names(std::string_view text, const Arguments& arguments) {
  std::string named;
  for (std::size_t at = 0; at < text.size();) {
    const bool begins_word = at == 0 || text[at - 1] == ' ' || text[at - 1] == '`';
    const auto is_word = [&](std::string_view word) {
      if (!begins_word || !text.substr(at).starts_with(word)) return false;
      const std::string_view rest = text.substr(at + word.size());
      return rest.empty() || std::string_view(" `;,.)").contains(rest.front());
    };
    if (is_word("NEWDIR")) {
      named += quoted(new_directory(arguments.dir));
      at += 6;
    } else if (is_word("DIR")) {
      named += quoted(arguments.dir);
      at += 3;
    } else {
      named += text[at++];
    }
  }
  return named;
}

}  // namespace

int exit_code(const Error& error) {
  switch (error.code()) {
    case Code::kDatabaseLocked:
    case Code::kRecoveryNeeded:
      return 3;
    case Code::kProcedureAborted:
    case Code::kCancelled:
      return 4;
    case Code::kInvalidArgument:
    case Code::kMalformed:
    case Code::kWrongUsage:
    case Code::kAlreadyExists:
    case Code::kNotAStore:
    case Code::kStoreFormatUnsupported:
    case Code::kKeyOrValueTooLarge:
    case Code::kLimitExceeded:
    case Code::kRecoveryConfigurationError:
      return 2;
    default:
      return 1;
  }
}

Error for_user(const Error& error, const Arguments& arguments) {
  if (arguments.dir.empty()) return error;
  const Cure cure = cure_of(error, arguments);
  if (!cure.action.empty()) return Error(error).suggest(cure.action);
  std::string action = with_names(with_quotes(error.suggested_action(), arguments.dir), arguments);
  for (const Command& command : cure.commands) {
    const std::string line = line_of(command);
    if (action.find("`" + line + "`") != std::string::npos) continue;
    action += fmt::format("{}run `{}`", action.empty() ? "" : "; then ", line);
  }
  return Error(error).suggest(std::move(action));
}

Json error_json(const Error& error, const Arguments& arguments) {
  Json json = wire::to_json(for_user(error, arguments));
  Json commands = Json::array();
  for (const Command& command : cure_of(error, arguments).commands) {
    Json words = Json::array();
    for (const std::string& word : command) words.push(word);
    commands.push(std::move(words));
  }
  return json.set("commands", std::move(commands));
}

int report(const Error& error, const Arguments& arguments) {
  if (arguments.json) {
    print(Json::object({{"schema", "defib.error/1"}, {"error", error_json(error, arguments)}}));
  } else {
    std::fflush(stdout);
    fmt::print(stderr, "{}\n", for_user(error, arguments).to_text());
  }
  return exit_code(error);
}

int finish(const Result<>& done, const Arguments& arguments) {
  return done ? 0 : report(done.error(), arguments);
}

void print(const Json& json) {
  fmt::print("{}\n", json.dump());
}

}  // namespace defib::store_program
