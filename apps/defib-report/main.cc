// defib-report: an incident for people, as one HTML page, PDF, text, JSON, or CSV. Started by
// `defib report`. Everything in it is redacted as an exported bundle is.

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>

#include "defib/daemon/bundle_request.h"
#include "defib/daemon/incident_view.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/postmortem/bundle_writer.h"
#include "defib/postmortem/redact.h"
#include "defib/process/state_dir.h"
#include "defib/recovery/incident.h"
#include "defib/report/advice.h"
#include "defib/report/csv.h"
#include "defib/report/document.h"
#include "defib/report/pdf.h"
#include "defib/report/signature.h"

namespace defib {
namespace {

using wire::Json;

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;
constexpr std::uint64_t kMaxFile = 2 * postmortem::kMaxPart;
constexpr std::size_t kLogTail = 64 << 10;

struct Options {
  std::string id, out, state_dir, format;
  std::string sign, signature, public_key;  // files
  int failure = 0;
  bool json = false;
};

int fail(const Error& error, bool json) {
  if (json) {
    fmt::print(
        "{}\n",
        Json::object({{"schema", "defib.error/1"}, {"error", wire::to_json(error)}}).dump(2));
  } else {
    fmt::print(stderr, "{}\n", error.to_text());
  }
  const bool usage = error.code() == Code::kWrongUsage || error.code() == Code::kNotFound ||
                     error.code() == Code::kInvalidArgument;
  return usage ? kWrongUsage : kFailed;
}

// The parts of a bundle of one failure; they were redacted when they were written.
class Parts {
 public:
  explicit Parts(std::string directory) : directory_(std::move(directory)) {}
  std::string text(const char* name) const {
    auto text = os::read_file(os::real_files(), os::join_path(directory_, name), kMaxFile);
    return text ? std::move(*text) : std::string();
  }
  Json json(const char* name) const {
    auto json = Json::parse(text(name));
    return json ? std::move(*json) : Json();
  }

 private:
  std::string directory_;
};

Result<report::Input> read_input(const Options& options) {
  os::Files& files = os::real_files();
  DEFIB_TRY_ASSIGN(const recovery::IncidentLog log,
                   recovery::IncidentLog::open(files, os::real_clock(), options.state_dir));
  DEFIB_TRY_ASSIGN(const std::string id, log.find(options.id));
  DEFIB_TRY_ASSIGN(const std::vector<Json> lines, log.read(id));
  if (lines.empty()) {
    return Error(Code::kIncidentChainBroken, fmt::format("the incident {} is empty", id));
  }
  report::Input input;
  Json incident = daemon::incident_document(lines);
  daemon::add_context(incident, options.state_dir);
  const std::string bundle = fmt::format("{}/incidents/{}.bundle", options.state_dir, id);
  postmortem::Redactor redactor;
  int first = 0;
  for (int failure = 1; failure <= daemon::kMaxBundledFailures; ++failure) {
    const std::string directory = fmt::format("{}/{}", bundle, failure);
    if (!files.is_dir(directory)) continue;
    if (first == 0) first = failure;
    ++input.failures;
    if (const auto marks = postmortem::read_marks(directory)) redactor.learn_marks(*marks);
  }
  input.failure = options.failure != 0 ? options.failure : std::max(first, 1);
  const std::string directory = fmt::format("{}/{}", bundle, input.failure);
  if (options.failure != 0 && !files.is_dir(directory)) {
    return Error(Code::kNotFound,
                 fmt::format("the incident {} has no bundle of failure {}", id, options.failure))
        .suggest(fmt::format("`defib incident show {}` lists them", id));
  }
  input.incident = redactor.json(incident);
  const Parts parts(directory);
  input.manifest = parts.json("manifest.json");
  input.crash = parts.json("crash.json");
  input.process = parts.json("process.json");
  input.samples = parts.json("samples.json");
  input.system = parts.json("system.json");
  input.changes = parts.json("changes.json");
  input.timeline = parts.json("timeline.json");
  input.disassembly = parts.text("disassembly.txt");
  input.log = parts.text("log.txt");
  input.log_important = parts.text("log_important.txt");
  input.kernel = parts.text("kernel.txt");
  input.evidence = parts.text("evidence.txt");
  input.made_by =
      fmt::format("defib {}, {}", DEFIB_VERSION, os::format_time(os::real_clock().wall_ns()));
  return input;
}

Json report_json(const report::Input& input) {
  const auto tail = [](const std::string& text) {
    if (text.size() <= kLogTail) return std::string_view(text);
    const std::size_t begin = text.find('\n', text.size() - kLogTail);
    return std::string_view(text).substr(begin == text.npos ? text.size() - kLogTail : begin + 1);
  };
  return Json::object({{"schema", "defib.report/1"},
                       {"made_at", os::format_time(os::real_clock().wall_ns())},
                       {"incident", input.incident},
                       {"failure", input.failure},
                       {"advice", input.incident["advice"]},
                       {"changes", input.changes},
                       {"group", input.incident["group"]},
                       {"manifest", input.manifest},
                       {"crash", input.crash},
                       {"disassembly", input.disassembly},
                       {"process", input.process},
                       {"samples", input.samples},
                       {"system", input.system},
                       {"log_important", input.log_important},
                       {"log_tail", tail(input.log)},
                       {"kernel", tail(input.kernel)},
                       {"evidence", tail(input.evidence)}});
}

Result<std::string> content_of(const report::Input& input, std::string_view format) {
  if (format == "json") return report_json(input).dump(2) + "\n";
  if (format == "csv") return report::to_csv(input.incident);
  const report::Document document = report::make_document(input);
  if (format == "html") return report::to_html(document);
  if (format == "text") return report::to_text(document);
  return report::to_pdf(document);
}

// By --format, else by the name of the file, else HTML.
Result<std::string> format_of(const Options& options) {
  constexpr std::array<std::string_view, 5> kFormats = {"html", "pdf", "text", "json", "csv"};
  if (!options.format.empty()) {
    if (std::ranges::find(kFormats, options.format) != kFormats.end()) return options.format;
    return Error(Code::kWrongUsage, fmt::format("--format: '{}' is no format", options.format))
        .suggest("use html, pdf, text, json or csv");
  }
  const std::string_view ending =
      std::string_view(options.out).substr(std::min(options.out.rfind('.'), options.out.size()));
  for (const auto& [name, format] :
       {std::pair{".pdf", "pdf"}, std::pair{".txt", "text"}, std::pair{".json", "json"},
        std::pair{".html", "html"}, std::pair{".csv", "csv"}}) {
    if (ending == name) return std::string(format);
  }
  return std::string(options.json ? "json" : "html");
}

int write_report(Options options) {
  if (options.state_dir.empty()) options.state_dir = process::default_state_dir(false);
  const auto format = format_of(options);
  if (!format) return fail(format.error(), options.json);
  const auto input = read_input(options);
  if (!input) return fail(input.error(), options.json);
  const auto content = content_of(*input, *format);
  if (!content) return fail(content.error(), options.json);
  const bool is_text = *format == "text" || *format == "json" || *format == "csv";
  if (options.out == "-" || (options.out.empty() && is_text)) {
    const bool written = fwrite(content->data(), 1, content->size(), stdout) == content->size();
    return written && fflush(stdout) == 0 ? kDone : kFailed;
  }
  std::string path = options.out;
  if (path.empty()) {
    path = fmt::format("{}.{}", input->incident["id"].as_string(), *format);
  }
  // Mode 0600: whoever may read it is for its owner to say.
  const auto written = os::write_file_atomically(os::real_files(), path, *content);
  if (!written) return fail(written.error(), options.json);
  if (options.json) {
    fmt::print("{}\n", Json::object({{"schema", "defib.report_file/1"},
                                     {"path", path},
                                     {"format", *format},
                                     {"bytes", content->size()}})
                           .dump(2));
  } else {
    fmt::print("{}\n", path);
  }
  return kDone;
}

constexpr std::size_t kMaxKey = 16 << 10;

// The head of the whole record, with its chain checked first: what is broken is not signed.
Result<report::SignedHead> read_head(const Options& options) {
  DEFIB_TRY_ASSIGN(
      const recovery::IncidentLog log,
      recovery::IncidentLog::open(os::real_files(), os::real_clock(), options.state_dir));
  DEFIB_TRY_ASSIGN(const std::string id, log.find(options.id));
  DEFIB_TRY_ASSIGN(const recovery::VerifyResult verified, log.verify(id, {}));
  if (!verified.intact) {
    return Error(Code::kIncidentChainBroken, verified.problem).with("incident", id);
  }
  return report::SignedHead{id, verified.head_hash, verified.lines,
                            os::format_time(os::real_clock().wall_ns())};
}

Result<Json> sign(const Options& options) {
  DEFIB_TRY_ASSIGN(const report::SignedHead head, read_head(options));
  DEFIB_TRY_ASSIGN(const std::string key, os::read_file(os::real_files(), options.sign, kMaxKey));
  DEFIB_TRY_ASSIGN(Json signature, report::sign_head(head, key));
  const std::string path = options.out.empty() ? head.incident + ".sig" : options.out;
  DEFIB_TRY(os::write_file_atomically(os::real_files(), path, signature.dump(2) + "\n"));
  return signature.set("path", path);
}

// Signed by this key, and every line that was signed is still there, unchanged.
Result<Json> check_signed(const Options& options) {
  DEFIB_TRY_ASSIGN(const std::string key,
                   os::read_file(os::real_files(), options.public_key, kMaxKey));
  DEFIB_TRY_ASSIGN(const std::string text,
                   os::read_file(os::real_files(), options.signature, kMaxKey));
  DEFIB_TRY_ASSIGN(Json signature, Json::parse(text));
  DEFIB_TRY_ASSIGN(const report::SignedHead head, report::check_signature(signature, key));
  DEFIB_TRY_ASSIGN(
      const recovery::IncidentLog log,
      recovery::IncidentLog::open(os::real_files(), os::real_clock(), options.state_dir));
  DEFIB_TRY_ASSIGN(const std::string id, log.find(options.id));
  if (id != head.incident) {
    return Error(Code::kSignatureInvalid,
                 fmt::format("it signs the incident {}, not {}", head.incident, id));
  }
  DEFIB_TRY_ASSIGN(const recovery::VerifyResult verified, log.verify(id, head.head_hash));
  if (!verified.intact) {
    return Error(Code::kSignatureInvalid, verified.problem).with("incident", id);
  }
  return signature.set("intact", true);
}

int print_signature(const Options& options, const Result<Json>& result) {
  if (!result) return fail(result.error(), options.json);
  if (options.json) {
    fmt::print("{}\n", result->dump(2));
  } else {
    fmt::print("{}: {}, head {}, signed at {}\n", (*result)["incident"].as_string(),
               options.sign.empty() ? "intact as signed" : "signed",
               (*result)["head_hash"].as_string(), (*result)["signed_at"].as_string());
  }
  return kDone;
}

int run(int argc, char** argv) {
  CLI::App app("An incident for people: summary, cause, advice, stacks, charts and output.");
  app.name("defib report");
  app.footer("Example: defib report latest --format pdf --out incident.pdf");
  Options options;
  app.add_option("ID", options.id, "The incident: its id, the id's beginning, or \"latest\"")
      ->required();
  app.add_option(
         "--format", options.format,
         "html (default), pdf, text, json or csv (every event); text, json and csv go to stdout")
      ->type_name("F");
  app.add_option("--out", options.out, "The file (default ID.html, ID.pdf); - is stdout")
      ->type_name("FILE");
  app.add_option("--failure", options.failure,
                 "Which of the incident's failures (default: the first)")
      ->type_name("N")
      ->check(CLI::Range(1, daemon::kMaxBundledFailures));
  app.add_option("--sign", options.sign,
                 "Sign the incident's head hash with this Ed25519 key (PEM) instead of reporting")
      ->type_name("KEY");
  CLI::Option* signature =
      app.add_option("--check-signature", options.signature,
                     "Check this signature, and that what was signed is unchanged")
          ->type_name("SIG");
  app.add_option("--public-key", options.public_key, "The signer's public key (PEM)")
      ->type_name("KEY")
      ->needs(signature);
  app.add_option("--state-dir", options.state_dir, "Where defib keeps its state")->type_name("DIR");
  app.add_flag("--json", options.json, "Print JSON; without --format, the report itself as JSON");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return fail(Error(Code::kWrongUsage, error.what()).suggest("`defib report --help`"),
                options.json);
  }
  if (options.state_dir.empty()) options.state_dir = process::default_state_dir(false);
  if (!options.sign.empty()) return print_signature(options, sign(options));
  if (!options.signature.empty()) return print_signature(options, check_signed(options));
  return write_report(std::move(options));
}

}  // namespace
}  // namespace defib

int main(int argc, char** argv) {
  return defib::run(argc, argv);
}
