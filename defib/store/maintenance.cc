#include "defib/store/maintenance.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "defib/base/bytes.h"
#include "defib/store/picture.h"
#include "defib/store/secondary_index.h"

namespace defib::store {
namespace {

using wire::Json;

Json with_problem(const Error& error) {
  return Json::object({{"problem", error.message()}});
}

Json inspect_segment(const Segment& segment) {
  Json json = Json::object({{"name", segment.name}, {"bytes", segment.bytes.size()}});
  if (!segment.header) {
    json.set("problem", segment.header_problem);
    return json;
  }
  json.set("epoch", segment.header->epoch);
  json.set("first_commit", segment.header->first_lsn);
  json.set("created_at", os::format_time(segment.header->created_wall_ns));
  json.set("boot_id", segment.header->boot_id);
  Json blocks = Json::array();
  for (const ScannedBlock& block : segment.blocks()) {
    blocks.push(Json::object({{"offset", block.offset},
                              {"first_commit", block.header.first_lsn},
                              {"commits", block.header.count},
                              {"bytes", block.header.payload_size},
                              {"durable_commit", block.header.durable_lsn},
                              {"checksum", fmt::format("{:08x}", block.header.header_crc)}}));
  }
  json.set("blocks", std::move(blocks));
  const Stop& stop = segment.stop;
  json.set("end", Json::object({{"offset", stop.offset},
                                {"next_commit", stop.lsn},
                                {"found", stop.kind == StopKind::kZeros       ? "zeros"
                                          : stop.kind == StopKind::kEndOfFile ? "end of file"
                                                                              : stop.problem},
                                {"rest_is_zero", stop.rest_is_zero},
                                {"later_block", stop.later_block}}));
  return json;
}

// One segment at a time, for the log may be large.
Json inspect_wal(os::Files& files, const std::string& dir, const Identity& identity) {
  const auto names = list_segments(files, dir);
  if (!names) return with_problem(names.error());
  Json json = Json::array();
  for (const std::string& name : *names) {
    const auto segments = scan_segments(files, dir, {name}, identity, {}, nullptr);
    json.push(segments ? inspect_segment(segments->front())
                       : with_problem(segments.error()).set("name", name));
  }
  return json;
}

Json inspect_page(const PageDescription& page) {
  Json json = Json::object({{"page", page.page},
                            {"kind", page.kind},
                            {"lsn", page.lsn},
                            {"checksum_holds", page.crc_ok}});
  if (!page.note.empty()) json.set("problem", page.note);
  return json;
}

Json inspect_pages(const PageFileDescription& found) {
  Json json = Json::object({{"page_size", found.page_size}, {"sequence", found.sequence}});
  if (!found.problem.empty()) json.set("problem", found.problem);
  Json pages = Json::array();
  for (const PageDescription& page : found.pages) pages.push(inspect_page(page));
  return json.set("pages", std::move(pages));
}

Json inspect_buffer(const PageFileDescription& found) {
  Json json =
      Json::object({{"state", to_string(found.dwb)}, {"header_holds", found.dwb_header_ok}});
  if (found.dwb_header_ok) {
    json.set("sequence", found.dwb_sequence);
    json.set("page_size", found.dwb_page_size);
    json.set("images", found.dwb_count);
  }
  if (!found.dwb_note.empty()) json.set("problem", found.dwb_note);
  Json pages = Json::array();
  for (const PageDescription& page : found.images) pages.push(inspect_page(page));
  return json.set("pages", std::move(pages));
}

std::string shown_name(const std::map<TableId, std::string>& names, TableId id) {
  const auto found = names.find(id);
  return found == names.end() ? fmt::format("table-{}", id) : escape(found->second);
}

std::map<TableId, std::string> names_of(const Manifest& manifest) {
  std::map<TableId, std::string> names;
  for (const ManifestTable& table : manifest.tables) names[table.id] = table.name;
  return names;
}

Json inspect_file(os::Files& files, const std::string& dir, const SortedFileInfo& info,
                  const std::map<TableId, std::string>& names, const std::string& uuid) {
  const std::string name = sorted_file_name(info);
  Json json = Json::object({{"name", name},
                            {"kind", info.kind == SortedKind::kBase ? "base" : "run"},
                            {"generation", info.generation},
                            {"bytes", info.size},
                            {"last_commit", info.last_commit},
                            {"records", info.records},
                            {"erased", info.erased}});
  const auto file =
      SortedFile::open(files, os::join_path(os::join_path(dir, kDataDir), name), info, uuid);
  if (!file) return json.set("problem", file.error().message());
  Json tables = Json::object();
  for (const TableId id : (*file)->tables()) {
    tables.set(shown_name(names, id), (*file)->records(id));
  }
  json.set("records_by_table", std::move(tables));
  const auto damages = (*file)->verify(nullptr);
  if (!damages) return json.set("problem", damages.error().message());
  Json list = Json::array();
  for (const SortedDamage& damage : *damages) {
    Json one = Json::object(
        {{"offset", damage.offset}, {"bytes", damage.size}, {"problem", damage.problem}});
    if (damage.holds_records) {
      one.set("table", shown_name(names, damage.table));
      one.set("after_key", escape(damage.after_key));
      one.set("before_key", escape(damage.before_key));
    }
    list.push(std::move(one));
  }
  return json.set("damage", std::move(list));
}

// Base first, then runs from oldest to newest; files that nothing names come last.
Json inspect_files(os::Files& files, const std::string& dir, const Manifest& manifest,
                   const std::string& uuid) {
  const auto names = names_of(manifest);
  Json json = Json::array();
  for (const SortedFileInfo& info : manifest.files) {
    json.push(inspect_file(files, dir, info, names, uuid));
  }
  const auto found = files.list(os::join_path(dir, kDataDir));
  if (!found) return json;
  for (const std::string& name : *found) {
    const auto is_it = [&](const SortedFileInfo& info) { return sorted_file_name(info) == name; };
    if (std::ranges::any_of(manifest.files, is_it)) continue;
    json.push(Json::object({{"name", name},
                            {"note",
                             "the manifest does not name it: a writer is making it, or the next "
                             "recovery removes it if it is the store's"}}));
  }
  return json;
}

Json inspect_tables(os::Files& files, const std::string& dir, const Manifest& manifest,
                    const std::string& uuid) {
  Json json = Json::array();
  std::map<TableId, std::uint64_t> records;
  std::map<TableId, std::uint64_t> erased;
  for (const SortedFileInfo& info : manifest.files) {
    const std::string path = os::join_path(os::join_path(dir, kDataDir), sorted_file_name(info));
    const auto file = SortedFile::open(files, path, info, uuid);
    if (!file) continue;
    for (const TableId id : (*file)->tables()) records[id] += (*file)->records(id);
  }
  constexpr std::string_view kIndexPrefix = "\x01index/";
  for (const ManifestTable& table : manifest.tables) {
    Json one = Json::object({{"id", table.id}, {"name", escape(table.name)}});
    if (table.name.starts_with(kIndexPrefix)) {
      one.set("index", escape(table.name.substr(kIndexPrefix.size())));
    }
    one.set("internal", is_internal(table.name));
    // Versions: a record that a run has again counts twice until they are merged.
    one.set("record_versions", records[table.id]);
    json.push(std::move(one));
  }
  return json;
}

Json inspect_checkpoint(const Manifest& manifest) {
  Json names = Json::array();
  std::uint64_t bytes = 0;
  for (const SortedFileInfo& info : manifest.files) {
    names.push(sorted_file_name(info));
    bytes += info.size;
  }
  return Json::object({{"commit", manifest.checkpoint_commit},
                       {"epoch", manifest.epoch},
                       {"sequence", manifest.sequence},
                       {"created_at", os::format_time(static_cast<std::int64_t>(manifest.wall_ns))},
                       {"bytes", bytes},
                       {"replay_bytes_per_second", manifest.replay_bytes_per_second},
                       {"files", std::move(names)}});
}

}  // namespace

namespace {

Result<Json> inspect_once(os::Files& files, const std::string& dir, std::string_view part) {
  DEFIB_TRY_ASSIGN(const Identity identity, read_identity(files, dir));
  const auto wanted = [&](std::string_view name) { return part.empty() || part == name; };
  Json json = Json::object({{"uuid", identity.uuid},
                            {"format_version", identity.version},
                            {"page_size", identity.page_size}});
  if (wanted("wal")) json.set("wal", inspect_wal(files, dir, identity));
  if (wanted("pages") || wanted("dwb")) {
    const auto found = describe_page_file(files, dir, identity.uuid);
    if (wanted("pages")) {
      json.set("pages", found ? inspect_pages(*found) : with_problem(found.error()));
    }
    if (wanted("dwb")) {
      json.set("dwb", found ? inspect_buffer(*found) : with_problem(found.error()));
    }
  }
  if (!wanted("checkpoint") && !wanted("files") && !wanted("tables")) return json;
  const auto pages = read_page_file(files, dir, identity.uuid);
  for (const std::string_view name : {"checkpoint", "files", "tables"}) {
    if (!wanted(name)) continue;
    if (!pages) {
      json.set(name, with_problem(pages.error()));
    } else if (name == "checkpoint") {
      json.set(name, inspect_checkpoint(pages->manifest));
    } else if (name == "files") {
      json.set(name, inspect_files(files, dir, pages->manifest, identity.uuid));
    } else {
      json.set(name, inspect_tables(files, dir, pages->manifest, identity.uuid));
    }
  }
  return json;
}

}  // namespace

// Its parts are read one after another; what a live writer changed in between may look like damage,
// and then it looks again.
Result<Json> inspect_store(const std::string& dir, std::string_view part, Options options) {
  os::Files& files = options.files != nullptr ? *options.files : os::real_files();
  const os::Clock& clock = options.clock != nullptr ? *options.clock : os::real_clock();
  const auto is_settled = [](const Result<Json>& found) {
    return found && found->dump().find("\"problem\":") == std::string::npos;
  };
  return look_until(files, dir, clock, [&] { return inspect_once(files, dir, part); }, is_settled);
}

}  // namespace defib::store
