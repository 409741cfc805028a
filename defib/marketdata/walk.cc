#include "defib/marketdata/walk.h"

#include <fmt/format.h>

#include <algorithm>

namespace defib::marketdata {
namespace {

// The bytes of one type in versions 1, 2 and 3.
struct TypeSizes {
  RType rtype;
  std::array<std::uint16_t, 3> size;
  bool differs() const { return size[0] != size[1] || size[1] != size[2]; }
};

template <typename T>
constexpr TypeSizes same(RType rtype) {
  return {rtype, {sizeof(T), sizeof(T), sizeof(T)}};
}

constexpr std::array kTypes = {
    same<TradeMsg>(RType::kMbp0),
    same<Mbp1Msg>(RType::kMbp1),
    same<Mbp10Msg>(RType::kMbp10),
    same<OhlcvMsg>(RType::kOhlcvDeprecated),
    same<StatusMsg>(RType::kStatus),
    TypeSizes{RType::kInstrumentDef,
              {sizeof(InstrumentDefMsgV1), sizeof(InstrumentDefMsgV2), sizeof(InstrumentDefMsg)}},
    same<ImbalanceMsg>(RType::kImbalance),
    TypeSizes{RType::kError, {sizeof(ErrorMsgV1), sizeof(ErrorMsg), sizeof(ErrorMsg)}},
    TypeSizes{RType::kSymbolMapping,
              {sizeof(SymbolMappingMsgV1), sizeof(SymbolMappingMsg), sizeof(SymbolMappingMsg)}},
    TypeSizes{RType::kSystem, {sizeof(SystemMsgV1), sizeof(SystemMsg), sizeof(SystemMsg)}},
    TypeSizes{RType::kStatistics, {sizeof(StatMsgV1), sizeof(StatMsgV1), sizeof(StatMsg)}},
    same<OhlcvMsg>(RType::kOhlcv1S),
    same<OhlcvMsg>(RType::kOhlcv1M),
    same<OhlcvMsg>(RType::kOhlcv1H),
    same<OhlcvMsg>(RType::kOhlcv1D),
    same<OhlcvMsg>(RType::kOhlcvEod),
    same<MboMsg>(RType::kMbo),
    same<Cmbp1Msg>(RType::kCmbp1),
    same<CbboMsg>(RType::kCbbo1S),
    same<CbboMsg>(RType::kCbbo1M),
    same<Cmbp1Msg>(RType::kTcbbo),
    same<BboMsg>(RType::kBbo1S),
    same<BboMsg>(RType::kBbo1M),
};

constexpr std::uint8_t words_of(std::size_t size, bool ts_out) {
  return static_cast<std::uint8_t>((size + (ts_out ? 8 : 0)) / 4);
}

Layout make_layout(std::uint8_t version, std::optional<bool> ts_out) {
  Layout layout;
  layout.ts_out = ts_out.value_or(false);
  for (const TypeSizes& type : kTypes) {
    std::uint16_t& words = layout.words[static_cast<std::uint8_t>(type.rtype)];
    const bool undecided = !ts_out || (version == 0 && type.differs());
    words = undecided ? Layout::kUndecided
                      : words_of(type.size[version == 0 ? 0 : version - 1], *ts_out);
  }
  return layout;
}

}  // namespace

const Layout& Layout::of(std::uint8_t version, std::optional<bool> ts_out) {
  DEFIB_ASSERT(version <= kNewestVersion);
  static const auto layouts = [] {
    std::array<std::array<Layout, 3>, kNewestVersion + 1> all;
    for (std::uint8_t v = 0; v <= kNewestVersion; ++v) {
      all[v] = {make_layout(v, false), make_layout(v, true), make_layout(v, std::nullopt)};
    }
    return all;
  }();
  return layouts[version][ts_out ? (*ts_out ? 1 : 0) : 2];
}

std::optional<LayoutHint> guess_layout(RType rtype, std::uint8_t words) {
  for (const TypeSizes& type : kTypes) {
    if (type.rtype != rtype) continue;
    for (std::uint8_t version = kNewestVersion; version >= 1; --version) {
      for (const bool ts_out : {false, true}) {
        if (words_of(type.size[version - 1], ts_out) != words) continue;
        // Where two versions have that size, the newer one stands for both.
        return LayoutHint{type.differs() ? version : std::uint8_t{0}, ts_out};
      }
    }
  }
  return std::nullopt;
}

bool RecordWalk::is_unknown_type(const char* at, std::uint16_t expected) const {
  const auto words = static_cast<std::uint8_t>(at[0]);
  const std::size_t least = sizeof(RecordHeader) / 4 + (layout_->ts_out ? 2 : 0);
  // The next file behind the end of this one reads as a record of the unknown type 'B'.
  const bool another_file = at[0] == 'D' && at[1] == 'B' && at[2] == 'N';
  return expected == Layout::kUnknownType && words >= least && !another_file;
}

Error RecordWalk::refusal(std::uint64_t base) const {
  const std::uint64_t offset = base + walked();
  const std::string_view at = rest();
  DEFIB_ASSERT(refused_ && at.size() >= sizeof(RecordHeader));
  const auto words = static_cast<std::uint8_t>(at[0]);
  const auto rtype = static_cast<std::uint8_t>(at[1]);
  const std::string_view name = to_string(static_cast<RType>(rtype));
  std::string why;
  if (at.starts_with("DBN")) {
    why = "another DBN file begins here; decode them one by one";
  } else if (words * 4U < sizeof(RecordHeader)) {
    why = fmt::format("a record of {} bytes is shorter than its header", words * 4);
  } else if (name.empty()) {
    why = fmt::format("a record of {} bytes has no room for ts_out", words * 4);
  } else {
    const std::uint16_t expected = layout_->words[rtype];
    why = expected == Layout::kUndecided
              ? fmt::format("no version has a record of type {} with {} bytes", name, words * 4)
              : fmt::format("a record of type {} has {} bytes instead of {}", name, words * 4,
                            expected * 4);
  }
  return Error(Code::kDbnMalformed,
               fmt::format("the DBN data is damaged at byte {}: {}", offset, why))
      .with("offset", static_cast<std::int64_t>(offset));
}

std::uint64_t RecordView::index_ts() const {
  std::uint64_t ts_recv = kUndefTime;
  switch (rtype()) {
    case RType::kMbo:
      ts_recv = load<std::uint64_t>(bytes_ + offsetof(MboMsg, ts_recv));
      break;
    case RType::kMbp0:
    case RType::kMbp1:
    case RType::kMbp10:
    case RType::kCmbp1:
    case RType::kTcbbo:
    case RType::kCbbo1S:
    case RType::kCbbo1M:
    case RType::kBbo1S:
    case RType::kBbo1M:
      ts_recv = load<std::uint64_t>(bytes_ + offsetof(TradeMsg, ts_recv));
      break;
    case RType::kStatus:
    case RType::kInstrumentDef:
    case RType::kImbalance:
    case RType::kStatistics:
      ts_recv = load<std::uint64_t>(bytes_ + sizeof(RecordHeader));
      break;
    default:
      break;
  }
  return ts_recv != kUndefTime ? ts_recv : ts_event();
}

}  // namespace defib::marketdata
