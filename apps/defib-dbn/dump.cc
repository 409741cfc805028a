#include "apps/defib-dbn/dump.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <vector>

#include "defib/marketdata/decoder.h"
#include "defib/marketdata/json.h"
#include "defib/marketdata/symbols.h"
#include "defib/os/fd.h"
#include "defib/wire/json.h"

namespace defib::dbn_program {
namespace {

using namespace marketdata;

constexpr std::size_t kReadSize = 256 << 10;
constexpr std::size_t kWriteSize = 64 << 10;

volatile sig_atomic_t interrupted = 0;

void on_signal(int) {
  interrupted = 1;
}

// Signals end a waiting read or write; a reader that went away is an error of the write.
void prepare_signals() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

// Standard output, collected. Whoever reads it may have seen enough (`| head`).
class Output {
 public:
  std::string& buffer() { return buffer_; }
  Result<> flush_if_full() { return buffer_.size() < kWriteSize ? Result<>() : flush(); }
  Result<> flush() {
    std::string_view left = buffer_;
    while (!left.empty() && !closed_) {
      const ssize_t count = ::write(STDOUT_FILENO, left.data(), left.size());
      if (count >= 0) {
        left.remove_prefix(static_cast<std::size_t>(count));
      } else if (errno == EPIPE) {
        closed_ = true;
      } else if (errno != EINTR || interrupted != 0) {
        if (interrupted != 0) break;
        return os::system_error("write", "standard output");
      }
    }
    buffer_.clear();
    return {};
  }
  bool closed() const { return closed_; }

 private:
  std::string buffer_;
  bool closed_ = false;
};

struct Filter {
  std::optional<Schema> schema;
  std::optional<RType> rtype;
  std::string_view symbol;

  static Result<Filter> from(const Arguments& arguments) {
    Filter filter;
    filter.symbol = arguments.symbol;
    if (!arguments.schema.empty()) {
      filter.schema = parse_schema(arguments.schema);
      if (!filter.schema) {
        return Error(Code::kWrongUsage, fmt::format("'{}' is no schema", arguments.schema))
            .suggest(
                "one of mbo, mbp-1, mbp-10, tbbo, trades, ohlcv-1s, definition, statistics ...");
      }
    }
    if (!arguments.rtype.empty()) {
      filter.rtype = parse_rtype(arguments.rtype);
      if (!filter.rtype) {
        return Error(Code::kWrongUsage, fmt::format("'{}' is no type of records", arguments.rtype))
            .suggest("one of trade, mbo, mbp-1, definition, symbol_mapping, system, error ...");
      }
    }
    return filter;
  }

  bool wants(const RecordView& record, std::string_view its_symbol) const {
    return (!schema || belongs_to(record.rtype(), *schema)) &&
           (!rtype || record.rtype() == *rtype) && (symbol.empty() || symbol == its_symbol);
  }
};

class Dump {
 public:
  Dump(const Arguments& arguments, Filter filter)
      : arguments_(arguments), filter_(filter), decoder_(options_of(arguments)) {}

  Result<int> run(int fd) {
    const Result<> read = read_all(fd);
    // What came before an error is printed in front of it.
    DEFIB_TRY(output_.flush());
    if (interrupted != 0) return kInterrupted;
    if (output_.closed() || enough_) return kDone;
    DEFIB_TRY(read);
    DEFIB_TRY(decoder_.finish());
    if (arguments_.metadata && decoder_.metadata() == nullptr) {
      return Error(Code::kDbnMalformed, "the file has no metadata").with("offset", 0);
    }
    return kDone;
  }

 private:
  static DecoderOptions options_of(const Arguments& arguments) {
    DecoderOptions options;
    options.fragment = arguments.fragment;
    options.version = static_cast<std::uint8_t>(arguments.version);
    if (arguments.upgrade) options.upgrade = UpgradePolicy::kUpgradeToV3;
    return options;
  }

  Result<> read_all(int fd) {
    std::vector<char> buffer(kReadSize);
    while (!enough_ && !output_.closed() && interrupted == 0) {
      const ssize_t count = ::read(fd, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return os::system_error("read", arguments_.file);
      if (count == 0) return {};
      DEFIB_TRY(decoder_.feed({buffer.data(), static_cast<std::size_t>(count)}));
      DEFIB_TRY(take());
    }
    return {};
  }

  Result<> take() {
    while (!enough_ && !output_.closed() && interrupted == 0) {
      DEFIB_TRY_ASSIGN(const std::optional<RecordView> record, decoder_.next());
      DEFIB_TRY(see_metadata());
      if (!record || enough_) return {};
      print(*record);
      DEFIB_TRY(output_.flush_if_full());
    }
    return {};
  }

  // Once, as soon as it is there.
  Result<> see_metadata() {
    if (seen_metadata_ || decoder_.metadata() == nullptr) return {};
    seen_metadata_ = true;
    const Metadata& metadata = *decoder_.metadata();
    if (arguments_.metadata) {
      output_.buffer() +=
          wire::Json::object({{"schema", "defib.dbn_metadata/1"}, {"metadata", to_json(metadata)}})
              .dump() +
          "\n";
      enough_ = true;
      return {};
    }
    // A live session's file has its mappings among the records, others may have none at all.
    if (auto symbols = TsSymbolMap::from(metadata)) symbols_ = std::move(*symbols);
    if (filter_.symbol.empty() || symbols_.size() > 0 || metadata.schema == Schema::kMixed)
      return {};
    return Error(Code::kInvalidArgument, "the file does not say which symbol a record is of")
        .suggest("leave --symbol out, and select by instrument_id");
  }

  void print(const RecordView& record) {
    mapped_.on_record(record);
    std::string_view symbol = symbols_.find(record);
    if (symbol.empty()) symbol = mapped_.find(record.instrument_id());
    if (!filter_.wants(record, symbol)) return;
    append_json(output_.buffer(), record, {symbol});
    output_.buffer() += '\n';
    ++printed_;
    enough_ = arguments_.limit > 0 && printed_ == arguments_.limit;
  }

  const Arguments& arguments_;
  Filter filter_;
  Decoder decoder_;
  TsSymbolMap symbols_;
  PitSymbolMap mapped_;
  Output output_;
  std::uint64_t printed_ = 0;
  bool seen_metadata_ = false;
  bool enough_ = false;
};

bool names_a_fragment(std::string_view file) {
  return file.ends_with(".frag") || file.ends_with(".frag.zst");
}

}  // namespace

Result<int> dump(const Arguments& given) {
  Arguments arguments = given;
  if (names_a_fragment(arguments.file)) arguments.fragment = true;
  if (arguments.metadata && arguments.fragment) {
    return Error(Code::kWrongUsage, "a fragment has no metadata");
  }
  DEFIB_TRY_ASSIGN(const Filter filter, Filter::from(arguments));
  prepare_signals();
  os::Fd file;
  int fd = STDIN_FILENO;
  if (arguments.file == "-") {
    if (::isatty(fd) == 1) {
      return Error(Code::kWrongUsage, "no file is named, and standard input is a terminal")
          .suggest("`defib dbn FILE`");
    }
  } else {
    file = os::Fd(::open(arguments.file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return os::system_error("open", arguments.file);
    fd = file.get();
  }
  return Dump(arguments, filter).run(fd);
}

int report(const Error& error, bool json) {
  if (json) {
    fmt::print(
        "{}\n",
        wire::Json::object({{"schema", "defib.error/1"}, {"error", wire::to_json(error)}}).dump());
  } else {
    fmt::print(stderr, "{}\n", error.to_text());
  }
  switch (error.code()) {
    case Code::kWrongUsage:
    case Code::kInvalidArgument:
    case Code::kFileNotFound:
      return kWrongUsage;
    default:
      return kFailed;
  }
}

}  // namespace defib::dbn_program
