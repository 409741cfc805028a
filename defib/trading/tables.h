// Names and keys of trading's tables in the store; docs/formats/trading.md describes the records.

#pragma once

#include <string_view>

namespace defib::trading {

inline constexpr std::string_view kMetaTable = "trade.meta";               // name -> text
inline constexpr std::string_view kBootTable = "trade.boot";               // epoch -> JSON
inline constexpr std::string_view kIntentTable = "trade.intent";           // client id -> intent
inline constexpr std::string_view kOpenIntentTable = "trade.intent_open";  // client id -> ""
inline constexpr std::string_view kOrderTable = "trade.order";             // order key -> order
inline constexpr std::string_view kVenueIdTable = "trade.venue_id";        // venue id -> client id
inline constexpr std::string_view kPositionTable = "trade.position";       // symbol -> position
inline constexpr std::string_view kBalanceTable = "trade.balance";         // asset -> total
inline constexpr std::string_view kInstrumentTable = "trade.instrument";   // symbol -> instrument
inline constexpr std::string_view kFillTable = "trade.fill";      // symbol, trade id -> fill
inline constexpr std::string_view kCursorTable = "trade.cursor";  // symbol -> trade id
inline constexpr std::string_view kSinceTable = "trade.since";    // symbol -> venue's time
inline constexpr std::string_view kCheckpointTable = "trade.checkpoint";  // "latest" -> JSON
inline constexpr std::string_view kApprovalTable = "trade.approval";      // plan hash -> JSON
inline constexpr std::string_view kFindingTable = "trade.finding";        // id -> JSON
inline constexpr std::string_view kJournalTable = "trade.journal";        // number -> JSON

inline constexpr std::string_view kDecisionTable = "trade.decision";  // time, id -> JSON

inline constexpr std::string_view kEpochKey = "epoch";
inline constexpr std::string_view kInitializedKey = "initialized";
inline constexpr std::string_view kLatestKey = "latest";

}  // namespace defib::trading
