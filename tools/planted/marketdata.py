"""Bugs of the DBN decoder, the symbol maps and the historical interface."""

WALK = "defib/marketdata/walk.h"
WALK_CC = "defib/marketdata/walk.cc"
DECODER = "defib/marketdata/decoder.cc"
METADATA = "defib/marketdata/metadata.cc"
UPGRADE = "defib/marketdata/upgrade.cc"
SYMBOLS = "defib/marketdata/symbols.cc"
JSON = "defib/marketdata/json.cc"
GATEWAY = "defib/marketdata/gateway.cc"
HISTORICAL = "defib/marketdata/historical.cc"
ZSTD = "defib/marketdata/zstd_stream.cc"

BUGS = [
    ("a record may be shorter than its header", "Decoder.ARecordShorter*", [
        (WALK_CC, "words >= least && !another_file", "words > 0 && words + 300U >= least && !another_file")]),
    ("a known type may have any length", "Decoder.AKnownType*:Decoder.TsOut*", [
        (WALK_CC, "return expected == Layout::kUnknownType && words", "return expected > 0 && words")]),
    ("the next file's head is a record", "Decoder.AnotherFile*", [
        (WALK_CC, "!another_file;", "(!another_file || at[3] != 0);")]),
    ("a record may end behind the bytes", "Decoder.EveryCutIs*:Decoder.RecordsArrive*", [
        (WALK, "    if (end_ - at < size) return false;\n", "")]),
    ("the end inside of a record goes unseen", "Decoder.EveryCutIs*", [
        (DECODER, "rest > 0) {", "rest > kMaxRecordSize) {")]),
    ("the end inside of a compressed frame goes unseen", "Decoder.EveryCutOfACompressed*", [
        (DECODER, "unpacker_ != nullptr && !unpacker_->decompressor.at_frame_end()",
         "unpacker_ != nullptr && false")]),
    ("an error is forgotten", "Decoder.AnErrorIsFinal", [
        (DECODER, "  error_ = std::move(error);\n  walk_ = RecordWalk();\n  return *error_;",
         "  walk_ = RecordWalk();\n  return error;")]),
    ("a count is believed", "Decoder.LyingHeaders*", [
        (METADATA, "count > reader_.remaining() / item_size", "item_size > count && count > 0")]),
    ("the metadata's limit is not kept", "Decoder.LyingHeaders*", [
        (METADATA, "prefix.size > max_size", "false")]),
    ("a compression bomb goes off", "Decoder.ACompressionBomb*", [
        (DECODER, "options_.max_size != 0 && block_end_ > options_.max_size", "false")]),
    ("any window is taken", "Decoder.AWindowBeyond*", [
        (ZSTD, "ZSTD_d_windowLogMax, max_window_log", "ZSTD_d_windowLogMax, max_window_log + 4")]),
    ("an upgrade loses ts_out", "Decoder.Upgrades*", [
        (UPGRADE, "store_value(out.data() + sizeof upgraded, record.ts_out())",
         "store_value(out.data() + sizeof upgraded, record.ts_event())")]),
    ("no quantity becomes a large one", "Samples/EveryVersion.Statistics*", [
        (UPGRADE, "from.quantity == kUndefQuantityV1 ? kUndefQuantity : from.quantity",
         "from.quantity")]),
    ("an id means its last symbol for ever", "TsSymbolMap.FindsTheMeaning*", [
        (SYMBOLS, " || std::prev(after)->end_date <= date", "")]),
    ("no price is shown as a price", "PriceText.*:RecordJson.WhatIsNotSet*", [
        (JSON, "  if (price == kUndefPrice) return {};\n", "")]),
    ("the least price overflows", "PriceText.*", [
        (JSON, "price < 0 ? 0 - bits : bits", "price < -1'000'000'000'000'000'000 ? bits - 1 : "
         "(price < 0 ? 0 - bits : bits)")]),
    ("the key stands in an error", "Historical.TheKey*", [
        (GATEWAY, "  replace_all(text, settings_.key, kHidden);\n", "")]),
    ("the key stands in an error percent-encoded", "Historical.TheKey*", [
        (GATEWAY, "  replace_all(text, wire::url_encode(settings_.key), kHidden);\n", "")]),
    ("the key stands in an error in base64", "Historical.TheKey*", [
        (GATEWAY, "  replace_all(text, base64(settings_.key + \":\"), kHidden);\n"
                  "  replace_all(text, base64(settings_.key), kHidden);\n", "")]),
    ("the key is sent in clear to a foreign host", "HistoricalBuilder.Refuses*", [
        (HISTORICAL, "if (is_plain && !is_loopback(host)) {",
         "if (is_plain && !is_loopback(host) && host.empty()) {")]),
    ("a cut stream counts as whole", "Historical.ACutInTheMiddle*", [
        (HISTORICAL, "  if (!answer) delivery.fail(answer.error());\n", "")]),
    ("data that is cut in a whole answer counts as whole", "Historical.AnAnswerThatIsWhole*", [
        (HISTORICAL, "  delivery.finish();\n", "")]),
    ("a rate limit has no time", "Historical.ARateLimit*", [
        (GATEWAY, "return seconds * 1000;", "return std::nullopt;")]),
]
