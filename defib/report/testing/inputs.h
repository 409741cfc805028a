// An incident and its bundle, as the tests of every form of a report use them.

#pragma once

#include <fmt/format.h>

#include <string>

#include "defib/os/clock.h"
#include "defib/report/document.h"

namespace defib::report::testing {

inline wire::Json frame(const std::string& function, const std::string& file, int line) {
  return wire::Json::object({{"pc", "0x401136"},
                             {"module", "/srv/engine"},
                             {"offset", "0x1136"},
                             {"function", function},
                             {"file", file},
                             {"line", line},
                             {"inlined", false}});
}

// `text` stands wherever the process, or its output, has a say.
inline wire::Json incident_of(const std::string& service, const std::string& text) {
  using wire::Json;
  const Json classification =
      Json::object({{"cause", "null_dereference"},
                    {"subtype", text},
                    {"signal", "SIGSEGV"},
                    {"fault_address", "0x8"},
                    {"evidence", Json::array({"a read at address 0x8", text})},
                    {"confidence", 0.98},
                    {"signature", Json::object({{"id", "0123456789abcdef"}, {"text", text}})}});
  const Json threads = Json::array(
      {Json::object({{"tid", 4711},
                     {"name", text},
                     {"crashed", true},
                     {"frames", Json::array({frame("read_level" + text, "/src/book.cc" + text, 41),
                                             frame("main", "/src/main.cc", 7)})}}),
       Json::object({{"tid", 4712},
                     {"name", "worker-2" + text},
                     {"crashed", false},
                     {"frames", Json::array({frame(text, "", 0)})}})});
  return Json::object(
      {{"schema", "defib.incident/1"},
       {"id", "20261120T130558Z-1a2b3c"},
       {"service", service},
       {"opened_at", "2026-11-20T13:05:58.123456789Z"},
       {"closed_at", "2026-11-20T13:06:01.123456789Z"},
       {"cause", "null_dereference"},
       {"outcome", "restarted"},
       {"head_hash", "9f3a"},
       {"classification", classification},
       {"threads", threads},
       {"group", Json::object({{"count", 4}, {"first_seen", "2026-11-01T00:00:00.000000000Z"}})},
       {"timeline", Json::array({Json::object({{"at", "2026-11-20T13:05:58.123456789Z"},
                                               {"mono_ns", 1000},
                                               {"event", "opened"},
                                               {"service", service}}),
                                 Json::object({{"at", "2026-11-20T13:05:59.123456789Z"},
                                               {"mono_ns", 1'000'001'000},
                                               {"event", text},
                                               {"line", text},
                                               {"downtime_ns", 1'000'000}})})}});
}
inline wire::Json incident() {
  return incident_of("engine", "");
}

inline Input input_of(const std::string& service, const std::string& text) {
  using wire::Json;
  Input input;
  input.incident = incident_of(service, text);
  input.failures = 1;
  input.made_by = "defib test";
  input.manifest = Json::object(
      {{"pid", 4711},
       {"generation", 7},
       {"complete", true},
       {"failed_at", "2026-11-20T13:05:58.123456789Z"},
       {"versions", Json::object({{"exe", "/srv/engine"}, {"build_id", "5f3c"}})},
       {"missing", Json::array({Json::object(
                       {{"name", "maps.txt"}, {"why", "the process was gone" + text}})})}});
  input.crash = Json::object(
      {{"message", text},
       {"registers", Json::object({{"rip", "0x401136"}, {"rax", "0x0"}, {text + "x", text}})},
       {"threads", input.incident["threads"]},
       {"gaps", Json::array({"a gap" + text})},
       {"modules",
        Json::array({Json::object(
            {{"path", "/srv/engine" + text}, {"start", "0x400000"}, {"build_id", "5f"}})})}});
  input.process = Json::object(
      {{"command_line", Json::array({"./engine", text})},
       {"environment", Json::object({{"MODE", "paper"}, {"X" + text, text}})},
       {"cwd", text},
       {"limits", Json::array({Json::object({{"name", "Max open files"}, {"soft", "1024"}})})},
       {"descriptors", Json::array({Json::object({{"fd", 3}, {"target", text}})})}});
  Json samples = Json::array();
  for (int i = 0; i < 60; ++i) {
    samples.push(Json::object(
        {{"at", os::format_time(os::parse_time("2026-11-20T13:01:00Z") + i * 5'000'000'000)},
         {"numbers", Json::array({4711, 7, i * 1'000'000'000LL, (20 + i) << 20, 4 + i % 2, 12})}}));
  }
  input.samples = Json::object(
      {{"service", Json::object({{"names", Json::array({"pid", "generation", "cpu_ns", "rss_bytes",
                                                        "threads", "descriptors"})},
                                 {"samples", std::move(samples)}})}});
  input.system = Json::object({{"kernel", "6.1.0" + text},
                               {"load", "0.5 0.4 0.3"},
                               {"memory", "MemTotal:   16 kB\nMemAvailable: 8 kB" + text + "\n"}});
  input.changes = Json::object(
      {{"since", Json::object({{"generation", 5}, {"good_at", "2026-11-20T12:00:00.000000000Z"}})},
       {"differences", Json::array({"binary /srv/engine replaced: build id a -> b" + text})}});
  input.disassembly = "   0x401130  mov rax, 0\n=> 0x401136  mov eax, [rax+8] " + text + "\n";
  input.log = "2026-11-20T13:05:57Z stdout all is well " + text + "\n";
  input.log_important = "2026-11-20T13:05:58Z stderr ERROR going down " + text + "\n";
  input.kernel = "engine[4711]: segfault at 8 " + text + "\n";
  input.evidence = "position 7 " + text + "\n";
  return input;
}
inline Input input() {
  return input_of("engine", "");
}
inline Input hostile(const std::string& attack) {
  return input_of("engine" + attack, attack);
}

}  // namespace defib::report::testing
