#include "defib/call/worker.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <typeinfo>

#include "defib/os/life_lock.h"
#include "defib/postmortem/crash_hook_sigsafe.h"
#include "defib/postmortem/terminate_text.h"

namespace defib::call {
namespace {

constexpr int kBadChannel = 120;
constexpr std::int64_t kForever = -1;

Channel* own_channel = nullptr;
bool own_fenced = false;

void set_phase(Phase phase) {
  own_channel->notes.phase.store(static_cast<std::uint32_t>(phase), std::memory_order_release);
}

Channel* map_channel(int fd) {
  struct stat status = {};
  if (fstat(fd, &status) != 0 || status.st_size < static_cast<off_t>(sizeof(Channel))) {
    return nullptr;
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return nullptr;
  auto* channel = static_cast<Channel*>(memory);
  const bool fits = channel->geometry.valid() && channel->geometry.total_bytes() == size;
  return fits ? channel : nullptr;
}

char* bytes_at(std::uint64_t offset) {
  return reinterpret_cast<char*>(own_channel) + offset;
}

void note_exit(int code, void*) {
  own_channel->notes.exit_code.store(code, std::memory_order_relaxed);
  set_phase(Phase::kExiting);
}

void reply(std::uint32_t number, ReplyStatus status, const std::string& bytes) {
  Channel& channel = *own_channel;
  ReplyHeader& header = channel.reply_header;
  const bool fits = bytes.size() <= channel.geometry.reply_bytes;
  header.number = number;
  header.status = static_cast<std::uint32_t>(fits ? status : ReplyStatus::kTooLarge);
  header.size = bytes.size();
  if (fits) std::memcpy(bytes_at(channel.geometry.reply_offset()), bytes.data(), bytes.size());
  channel.reply.store(number, std::memory_order_seq_cst);
  if (channel.host_sleeps.load(std::memory_order_seq_cst) != 0) wake_all(channel.reply);
}

// The number of the next request.
std::uint32_t next_request(std::uint32_t last) {
  Channel& channel = *own_channel;
  for (std::uint32_t i = 0; i < spins(); ++i) {
    const std::uint32_t number = channel.request.load(std::memory_order_acquire);
    if (number != last) return number;
    relax();
  }
  for (;;) {
    channel.worker_sleeps.store(1, std::memory_order_seq_cst);
    std::uint32_t number = channel.request.load(std::memory_order_seq_cst);
    if (number == last) {
      wait_while(channel.request, last, kForever);
      number = channel.request.load(std::memory_order_acquire);
    }
    channel.worker_sleeps.store(0, std::memory_order_relaxed);
    if (number != last) return number;
  }
}

void end_stream(RingWriter& ring, std::uint32_t number, ReplyStatus status, const Reply& error) {
  RingHeader& header = own_channel->rings[number];
  RingState state = RingState::kEnded;
  if (status == ReplyStatus::kOutOfMemory) state = RingState::kOutOfMemory;
  if (status == ReplyStatus::kThrew || status == ReplyStatus::kBadArguments) {
    state = RingState::kThrew;
    const std::string text =
        status == ReplyStatus::kThrew
            ? error
            : encode(std::pair<std::string, std::string>("", "the arguments cannot be decoded"));
    const std::size_t size = text.size() <= kRingErrorBytes ? text.size() : 0;
    std::memcpy(own_channel->ring_errors[number], text.data(), size);
    header.error_size.store(static_cast<std::uint32_t>(size), std::memory_order_release);
  }
  ring.end(state);
}

void start_stream(const PluginMethod& method, std::uint32_t number, std::uint32_t ring_number,
                  std::string arguments) {
  RingHeader& header = own_channel->rings[ring_number];
  const Geometry& geometry = own_channel->geometry;
  auto* bytes = reinterpret_cast<std::byte*>(bytes_at(geometry.ring_offset(ring_number)));
  const std::uint64_t capacity = geometry.ring_capacity(method.as_it_lies ? method.record_size : 0);
  // It begins when the reply is there, so that no record, and no crash, comes before its stream.
  auto opened = std::make_shared<std::atomic<bool>>(false);
  std::thread([&method, &header, ring_number, bytes, capacity, opened,
               arguments = std::move(arguments)] {
    postmortem::guard_thread_stack();
    opened->wait(false);
    RingWriter ring(header, bytes, capacity, own_fenced);
    Reply error;
    const ReplyStatus status = method.stream(arguments, ring, error);
    end_stream(ring, ring_number, status, error);
    postmortem::unguard_thread_stack();
  }).detach();
  reply(number, ReplyStatus::kValue, {});
  opened->store(true);
  opened->notify_one();
}

void answer(const PluginTable& table, std::uint32_t number) {
  const RequestHeader header = own_channel->request_header;
  const Geometry& geometry = own_channel->geometry;
  if (header.method >= table.count || header.size > geometry.request_bytes) {
    return reply(number, ReplyStatus::kNoSuchMethod, {});
  }
  const PluginMethod& method = table.methods[header.method];
  const std::string_view arguments(bytes_at(geometry.request_offset()), header.size);
  if (method.is_stream) {
    if (header.ring >= geometry.rings) return reply(number, ReplyStatus::kNoSuchMethod, {});
    try {
      return start_stream(method, number, header.ring, std::string(arguments));
    } catch (...) {
      Reply error;
      const ReplyStatus status = describe_exception(error);
      return reply(number, status, error);
    }
  }
  Reply result;
  set_phase(Phase::kCalling);
  const ReplyStatus status = method.invoke(arguments, result);
  set_phase(Phase::kReady);
  reply(number, status, result);
}

[[noreturn]] void serve(const PluginTable& table) {
  PluginDescription description{table.name, table.version, {}};
  for (std::uint32_t i = 0; i < table.count; ++i) {
    description.signatures.emplace_back(table.methods[i].signature);
  }
  std::uint32_t last = 1;
  set_phase(Phase::kReady);
  reply(last, ReplyStatus::kReady, encode(description));
  for (;;) {
    last = next_request(last);
    answer(table, last);
  }
}

// Where the plugin's code lies, so that the host can say "in libprices.so+0x1139" at once.
void note_place(const void* symbol) {
  Dl_info info = {};
  if (dladdr(symbol, &info) == 0) return;
  struct Search {
    std::uint64_t base;
    std::uint64_t end = 0;
  } search{reinterpret_cast<std::uintptr_t>(info.dli_fbase)};
  dl_iterate_phdr(
      [](dl_phdr_info* one, std::size_t, void* data) {
        auto* wanted = static_cast<Search*>(data);
        if (one->dlpi_addr != wanted->base) return 0;
        for (int i = 0; i < one->dlpi_phnum; ++i) {
          const auto& segment = one->dlpi_phdr[i];
          if (segment.p_type != PT_LOAD) continue;
          const std::uint64_t end = one->dlpi_addr + segment.p_vaddr + segment.p_memsz;
          if (end > wanted->end) wanted->end = end;
        }
        return 1;
      },
      &search);
  WorkerNotes& notes = own_channel->notes;
  notes.plugin_start.store(reinterpret_cast<std::uintptr_t>(info.dli_fbase));
  notes.plugin_end.store(search.end);
}

using Entry = const PluginTable* (*)();

// Of a function of the program that this process is a fork of: the address lies in code that was
// mapped before the fork.
const PluginTable* own_function(std::uint64_t address) {
  struct Search {
    std::uint64_t address;
    bool found = false;
  } search{address};
  dl_iterate_phdr(
      [](dl_phdr_info* one, std::size_t, void* data) {
        auto* wanted = static_cast<Search*>(data);
        for (int i = 0; i < one->dlpi_phnum; ++i) {
          const auto& segment = one->dlpi_phdr[i];
          const std::uint64_t start = one->dlpi_addr + segment.p_vaddr;
          if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
          if (wanted->address >= start && wanted->address < start + segment.p_memsz) {
            wanted->found = true;
          }
        }
        return wanted->found ? 1 : 0;
      },
      &search);
  if (!search.found) return nullptr;
  Entry entry = nullptr;
  static_assert(sizeof entry == sizeof address);
  std::memcpy(&entry, &address, sizeof entry);
  return entry();
}

const PluginTable* load(const std::string& path, std::string& why) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    why = dlerror();
    return nullptr;
  }
  void* entry = dlsym(library, kPluginEntry);
  if (entry == nullptr) {
    why = path + " is not a plugin: it has no " + kPluginEntry + " (DEFIB_CALL_PLUGIN makes it)";
    return nullptr;
  }
  const PluginTable* table = reinterpret_cast<Entry>(entry)();
  if (table == nullptr || table->abi != kPluginAbi) {
    why = path + " was compiled against another version of defib/call/plugin.h";
    return nullptr;
  }
  note_place(entry);
  return table;
}

bool prepare(int channel_fd, int event_fd) {
  own_channel = map_channel(channel_fd);
  close(channel_fd);
  if (own_channel == nullptr) return false;
  own_fenced = !register_for_fences();
  postmortem::install_crash_hook(&own_channel->crash, event_fd);
  postmortem::install_terminate_text(&own_channel->crash);
  on_exit(note_exit, nullptr);
  // Its end is told before the memory is torn down.
  return os::hold_life_lock(own_channel->life);
}

[[noreturn]] void refuse(const std::string& why) {
  reply(1, ReplyStatus::kUnloadable, why);
  // The host reads it, and kills us.
  for (;;) pause();
}

}  // namespace

void progress() {
  if (own_channel != nullptr) own_channel->notes.progress.fetch_add(1, std::memory_order_relaxed);
}

ReplyStatus describe_exception(Reply& reply) {
  std::string type = "unknown";
  if (const std::type_info* thrown = abi::__cxa_current_exception_type(); thrown != nullptr) {
    int status = 0;
    const std::unique_ptr<char, void (*)(void*)> name(
        abi::__cxa_demangle(thrown->name(), nullptr, nullptr, &status), &free);
    type = name != nullptr ? name.get() : thrown->name();
  }
  std::string text;
  reply.clear();
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return ReplyStatus::kOutOfMemory;
  } catch (const std::exception& error) {
    text = error.what();
  } catch (const std::string& error) {
    text = error;
  } catch (const char* error) {
    text = error;
  } catch (...) {
    text.clear();  // Of another type the name is all that can be told.
  }
  reply = encode(std::pair(type, text));
  return ReplyStatus::kThrew;
}

int worker_main(int channel_fd, int event_fd, const PluginTable* own_table) {
  if (!prepare(channel_fd, event_fd)) return kBadChannel;
  const Geometry& geometry = own_channel->geometry;
  const std::uint64_t size = own_channel->request_header.size;
  if (size > geometry.request_bytes) return kBadChannel;
  const auto launch = decode<Launch>({bytes_at(geometry.request_offset()), size});
  if (!launch) return kBadChannel;
  if (const auto applied = apply_isolation(launch->isolation); !applied) {
    refuse(applied.error().to_line());
  }
  rlimit address_space = {};
  if (launch->isolation.memory_bytes != 0 && getrlimit(RLIMIT_AS, &address_space) == 0) {
    own_channel->notes.address_space.store(address_space.rlim_cur);
  }
  set_phase(Phase::kLimited);
  std::string why;
  const PluginTable* table = own_table;
  if (table == nullptr && launch->plugin.empty()) {
    table = own_function(launch->function);
    why = "the function lies in a library that was loaded after the zygote was forked";
  } else if (table == nullptr) {
    table = load(launch->plugin, why);
  }
  if (table == nullptr) refuse(why);
  serve(*table);
}

}  // namespace defib::call
