#include "apps/defib-capture/symbol_commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <optional>

#include "defib/os/files.h"
#include "defib/postmortem/symbolize.h"

namespace defib {
namespace {

constexpr std::size_t kMaxInputBytes = std::size_t{256} << 20;

Result<std::string> read_input(const std::string& path) {
  if (path != "-") return os::read_file(os::real_files(), path, kMaxInputBytes);
  std::string text;
  char chunk[1 << 16];
  while (true) {
    const ssize_t size = ::read(STDIN_FILENO, chunk, sizeof chunk);
    if (size < 0) return os::system_error("read");
    if (size == 0) return text;
    text.append(chunk, static_cast<std::size_t>(size));
    if (text.size() > kMaxInputBytes) {
      return Error(Code::kInvalidArgument,
                   fmt::format("more than {} bytes of input", kMaxInputBytes));
    }
  }
}

std::optional<pid_t> process_number(const std::string& text) {
  pid_t pid = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, pid);
  if (error != std::errc() || stop != end || pid <= 0) return std::nullopt;
  return pid;
}

std::string lines_of(const std::vector<std::string>& gaps) {
  std::string text;
  for (const std::string& line : gaps) text += fmt::format("  - {}\n", line);
  return text;
}

}  // namespace

Result<CommandResult> symbolize_file(const std::string& path,
                                     const postmortem::SymbolOptions& options) {
  DEFIB_TRY_ASSIGN(const std::string text, read_input(path));
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] == '{') {
    DEFIB_TRY_ASSIGN(wire::Json report, wire::Json::parse(text));
    DEFIB_TRY_ASSIGN(wire::Json filled, postmortem::symbolize_report(std::move(report), options));
    std::string stacks = postmortem::stacks_text(filled);
    for (const wire::Json& gap : filled["gaps"].items()) {
      stacks += fmt::format("  - {}\n", gap.as_string());
    }
    return CommandResult{std::move(filled), std::move(stacks)};
  }
  DEFIB_TRY_ASSIGN(const auto queries, postmortem::parse_queries(text));
  const auto symbolized = postmortem::symbolize(queries, options);
  return CommandResult{postmortem::symbols_json(queries, symbolized),
                       postmortem::symbols_text(queries, symbolized) + lines_of(symbolized.gaps)};
}

Result<CommandResult> warm_targets(const std::vector<std::string>& targets,
                                   const postmortem::SymbolOptions& options) {
  std::vector<postmortem::Module> modules;
  for (const std::string& target : targets) {
    if (const auto pid = process_number(target)) {
      DEFIB_TRY_ASSIGN(auto found, postmortem::modules_of_process(*pid));
      for (postmortem::Module& module : found) modules.push_back(std::move(module));
    } else {
      DEFIB_TRY_ASSIGN(postmortem::Module module, postmortem::module_of_file(target));
      modules.push_back(std::move(module));
    }
  }
  DEFIB_TRY_ASSIGN(const postmortem::Warmed warmed, postmortem::warm_symbols(modules, options));
  wire::Json document = wire::Json::object({{"schema", "defib.symbol_tables/1"}});
  document.set("directory", options.cache_dir);
  document.set("made", warmed.made);
  document.set("kept", warmed.kept);
  wire::Json gaps = wire::Json::array();
  for (const std::string& line : warmed.gaps) gaps.push(line);
  document.set("gaps", std::move(gaps));
  return CommandResult{std::move(document),
                       fmt::format("{} symbol tables made, {} were there, in {}\n", warmed.made,
                                   warmed.kept, options.cache_dir) +
                           lines_of(warmed.gaps)};
}

}  // namespace defib
