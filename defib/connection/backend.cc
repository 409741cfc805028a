#include "defib/connection/backend.h"

#include <fmt/core.h>

#include <algorithm>

namespace defib::connection {

std::string_view to_string(Isolation isolation) {
  switch (isolation) {
    case Isolation::kReadCommitted:
      return "READ COMMITTED";
    case Isolation::kRepeatableRead:
      return "REPEATABLE READ";
    case Isolation::kSerializable:
      return "SERIALIZABLE";
    default:
      return "";
  }
}

std::string statement_that_ends(const SessionInfo& info) {
  // They came from the server; yet nothing but numbers and a time goes into a statement.
  const auto plain = [](std::string_view text, std::string_view allowed) {
    return !text.empty() && text.find_first_not_of(allowed) == std::string_view::npos;
  };
  if (!plain(info.server_id, "0123456789")) return {};
  switch (info.engine) {
    case Engine::kPostgresql:
      if (!plain(info.server_since, "0123456789-+:. ")) return {};
      return fmt::format(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {} AND "
          "backend_start = '{}'::timestamptz",
          info.server_id, info.server_since);
    case Engine::kMariadb:
    case Engine::kMysql:
      return fmt::format("KILL CONNECTION {}", info.server_id);
    case Engine::kMssql:
      return fmt::format("KILL {}", info.server_id);
    default:
      return {};
  }
}

}  // namespace defib::connection
