// What a bundle reads that others wrote: rings of samples, socket tables, limits, kernel records,
// code, lines of output. Nothing may crash or hang, and what was redacted once stays as it is.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "defib/postmortem/bundle_code.h"
#include "defib/postmortem/bundle_lines.h"
#include "defib/postmortem/bundle_system.h"
#include "defib/postmortem/kernel_log.h"
#include "defib/postmortem/process_facts.h"
#include "defib/postmortem/redact.h"
#include "defib/postmortem/samples.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib::postmortem;
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  Redactor redactor;
  switch (data[0] % 7) {
    case 0:
      static_cast<void>(parse_ring(input, SampleKind::kService).has_value());
      static_cast<void>(parse_ring(input, SampleKind::kMachine).has_value());
      break;
    case 1:
      for (const char* protocol : {"tcp", "udp6", "unix"}) parse_socket_table(protocol, input);
      break;
    case 2:
      limits_json(input);
      break;
    case 3: {
      std::int64_t at = 0;
      std::string text;
      parse_kernel_record(input, at, text);
      break;
    }
    case 4:
      disassemble(Machine::kX86_64, 0x1000, input, 0x1000 + input.size() / 2);
      disassemble(Machine::kAArch64, 0x1000, input, 0x1000 + input.size() / 2);
      break;
    case 5:
      severity_of_line(input);
      break;
    default: {
      redactor.learn(parse_environment(input));
      redactor.learn_arguments(parse_arguments(input));
      const std::string once = redactor.text(input);
      // A secret that was hidden never comes back.
      if (redactor.count() == 0 && once != input) std::abort();
      redactor.text(once);
      if (const auto json = defib::wire::Json::parse(input)) redactor.json(*json);
    }
  }
  return 0;
}
