#include "defib/call/call_c.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>

#include "defib/call/client_json.h"
#include "defib/call/dynamic.h"
#include "defib/call/host.h"
#include "defib/os/files.h"

using defib::Code;
using defib::Error;
using defib::Result;
using defib::wire::Json;
namespace call = defib::call;

struct defib_call_client {
  call::DynamicClient client;
};

struct defib_call_stream {
  call::DynamicReader reader;
};

namespace {

thread_local std::string last_error;

template <std::size_t kSize>
void copy_text(char (&to)[kSize], std::string_view from) {
  const std::size_t size = std::min(from.size(), kSize - 1);
  std::memcpy(to, from.data(), size);
  to[size] = '\0';
}

int report(const Error& from, defib_call_error* to) {
  if (to != nullptr) {
    *to = defib_call_error{};
    to->code = from.number();
    copy_text(to->kind, from.kind());
    copy_text(to->message, from.to_line());
    copy_text(to->action, from.suggested_action());
  }
  return from.number();
}

void keep(const Error& error) {
  last_error = defib::wire::to_json(error).dump();
}

// A function of this face: whatever is thrown inside becomes an error.
template <typename Function>
int guarded(defib_call_error* error, const Function& function) noexcept {
  try {
    Result<> done;
    try {
      done = function();
    } catch (const std::exception& thrown) {
      done = Error(Code::kInternal, thrown.what());
    } catch (...) {
      done = Error(Code::kInternal, "an exception of an unknown type");
    }
    if (!done) {
      keep(done.error());
      return report(done.error(), error);
    }
    if (error != nullptr) *error = defib_call_error{};
    return 0;
  } catch (...) {
    // No memory, and nothing to tell it with.
    if (error != nullptr) {
      *error = defib_call_error{};
      error->code = static_cast<int>(Code::kInternal);
    }
    return static_cast<int>(Code::kInternal);
  }
}

Result<> needs(bool given, std::string_view what) {
  if (given) return {};
  return Error(Code::kInvalidArgument, std::string(what) + " must not be NULL");
}

// For the caller, who frees it with defib_call_free().
Result<char*> text_for_caller(const std::string& text) {
  auto* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) return Error(Code::kInternal, "there is no memory for the text");
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

Result<> give(const Json& json, char** to) {
  DEFIB_TRY_ASSIGN(*to, text_for_caller(json.dump()));
  return {};
}

Result<Json> parse(const char* text, std::string_view what, const Json& otherwise) {
  if (text == nullptr) return otherwise;
  auto json = Json::parse(text);
  if (json) return json;
  return Error(Code::kInvalidArgument, std::string(what) + " are no JSON text")
      .because(json.error());
}

// In ../bin or in the directory of this library; empty: the host looks for it.
std::string worker_beside() {
  Dl_info info;
  if (getenv("DEFIB_WORKER") != nullptr ||
      dladdr(reinterpret_cast<const void*>(&defib_call_free), &info) == 0) {
    return {};
  }
  std::string directory = info.dli_fname;
  const std::size_t end = directory.rfind('/');
  if (end == std::string::npos) return {};
  directory.resize(end);
  for (const char* place : {"/../bin/", "/"}) {
    const std::string path = directory + place + "defib-worker";
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return {};
}

// One for the process, which lives as long as it does.
Result<std::shared_ptr<call::Host>> host() {
  static std::mutex mutex;
  static std::shared_ptr<call::Host>* host = nullptr;
  const std::lock_guard lock(mutex);
  if (host == nullptr) {
    call::HostOptions options;
    options.worker_program = worker_beside();
    DEFIB_TRY_ASSIGN(auto started, call::Host::start(std::move(options)));
    host = new std::shared_ptr<call::Host>(std::move(started));
  }
  return *host;
}

}  // namespace

size_t defib_call_last_error(char* to, size_t size) {
  const std::string_view text = last_error;
  if (to != nullptr && size > 0) {
    const std::size_t copied = std::min(text.size(), size - 1);
    std::memcpy(to, text.data(), copied);
    to[copied] = '\0';
  }
  return text.size();
}

defib_call_client* defib_call_create(const char* plugin, const char* options,
                                     defib_call_error* error) {
  defib_call_client* made = nullptr;
  guarded(error, [&]() -> Result<> {
    DEFIB_TRY(needs(plugin != nullptr, "plugin"));
    DEFIB_TRY_ASSIGN(const Json json, parse(options, "the options", Json()));
    DEFIB_TRY_ASSIGN(call::ClientOptions wanted, call::client_options_from_json(json));
    DEFIB_TRY_ASSIGN(wanted.host, host());
    DEFIB_TRY_ASSIGN(auto client, call::DynamicClient::create(plugin, wanted));
    made = new defib_call_client{std::move(client)};
    return {};
  });
  return made;
}

void defib_call_close(defib_call_client* client) {
  delete client;
}

int defib_call_methods(const defib_call_client* client, char** json, defib_call_error* error) {
  if (json != nullptr) *json = nullptr;
  return guarded(error, [&]() -> Result<> {
    DEFIB_TRY(needs(client != nullptr, "client"));
    DEFIB_TRY(needs(json != nullptr, "json"));
    return give(call::methods_json(client->client), json);
  });
}

int defib_call_invoke(defib_call_client* client, const char* method, const char* arguments,
                      uint32_t timeout_ms, char** result, defib_call_error* error) {
  if (result != nullptr) *result = nullptr;
  return guarded(error, [&]() -> Result<> {
    DEFIB_TRY(needs(client != nullptr, "client"));
    DEFIB_TRY(needs(method != nullptr, "method"));
    DEFIB_TRY(needs(result != nullptr, "result"));
    DEFIB_TRY_ASSIGN(const Json values, parse(arguments, "the arguments", Json::array()));
    DEFIB_TRY_ASSIGN(const Json value,
                     client->client.call(method, values, call::Milliseconds(timeout_ms)));
    return give(value, result);
  });
}

defib_call_stream* defib_call_stream_open(defib_call_client* client, const char* method,
                                          const char* arguments, defib_call_error* error) {
  defib_call_stream* made = nullptr;
  guarded(error, [&]() -> Result<> {
    DEFIB_TRY(needs(client != nullptr, "client"));
    DEFIB_TRY(needs(method != nullptr, "method"));
    DEFIB_TRY_ASSIGN(const Json values, parse(arguments, "the arguments", Json::array()));
    DEFIB_TRY_ASSIGN(auto reader, client->client.open(method, values));
    made = new defib_call_stream{std::move(reader)};
    return {};
  });
  return made;
}

int defib_call_stream_next(defib_call_stream* stream, uint32_t timeout_ms, char** record,
                           defib_call_error* error) {
  constexpr uint32_t kDefaultTimeoutMs = 30'000;
  if (record != nullptr) *record = nullptr;
  return guarded(error, [&]() -> Result<> {
    DEFIB_TRY(needs(stream != nullptr, "stream"));
    DEFIB_TRY(needs(record != nullptr, "record"));
    const call::Milliseconds timeout(timeout_ms == 0 ? kDefaultTimeoutMs : timeout_ms);
    DEFIB_TRY_ASSIGN(const std::optional<Json> next, stream->reader.next(timeout));
    return next ? give(*next, record) : Result<>();
  });
}

void defib_call_stream_close(defib_call_stream* stream) {
  delete stream;
}

int defib_call_faulted(const defib_call_client* client) {
  return client != nullptr && client->client.fault() ? 1 : 0;
}

int defib_call_report(const defib_call_client* client, uint32_t timeout_ms, char** json,
                      defib_call_error* error) {
  if (json != nullptr) *json = nullptr;
  return guarded(error, [&]() -> Result<> {
    DEFIB_TRY(needs(client != nullptr, "client"));
    DEFIB_TRY(needs(json != nullptr, "json"));
    if (!client->client.fault()) return {};
    const auto known = client->client.report(call::Milliseconds(timeout_ms));
    return known ? give(call::fault_json(*known), json) : Result<>();
  });
}

void defib_call_free(char* text) {
  std::free(text);
}
