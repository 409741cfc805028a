// Victims in C++: `victim_cpp MODE` dies or hangs in one way, each in a function of its own. The
// table in catalogue.py says what each is to be called. One that hangs says "ready" first.

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#define FUNCTION [[gnu::noinline, gnu::noclone]]

namespace {

using namespace std::chrono_literals;

template <typename T>
T opaque(T value) {
  asm volatile("" : "+r"(value));
  return value;
}

void ready() {
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) _exit(90);
}
[[noreturn]] void wait_for_ever() {
  while (true) pause();
}

// ---- exceptions ---------------------------------------------------------------------------------

class UnknownSymbol : public std::runtime_error {
 public:
  explicit UnknownSymbol(const std::string& symbol)
      : std::runtime_error("no such symbol: " + symbol) {}
};

FUNCTION void runtime_error() {
  throw std::runtime_error("the order book is crossed");
}
FUNCTION void own_exception() {
  throw UnknownSymbol("XYZ");
}
FUNCTION void thrown_integer() {
  throw 42;
}
FUNCTION void out_of_range() {
  const std::vector<int> levels(3);
  printf("%d\n", levels.at(opaque(7U)));
}
FUNCTION void bad_variant() {
  const std::variant<int, std::string> value = 1;
  printf("%s\n", std::get<1>(value).c_str());
}
FUNCTION void in_noexcept() noexcept {
  runtime_error();
}
FUNCTION void in_thread() {
  std::thread thread(runtime_error);
  thread.join();
}
FUNCTION void in_destructor() {
  struct Closes {
    ~Closes() { throw std::logic_error("closed twice"); }
  };
  Closes closes;
}
FUNCTION void joinable_destroyed() {
  std::thread thread(wait_for_ever);
}
FUNCTION void terminate_called() {
  std::terminate();
}

struct Base {
  Base() { call(this); }
  virtual ~Base() = default;
  virtual void fill() = 0;
  FUNCTION static void call(Base* self) { opaque(self)->fill(); }
};
struct Derived : Base {
  void fill() override { puts("filled"); }
};
FUNCTION void pure_virtual() {
  Derived derived;
  derived.fill();
}
FUNCTION void bad_alloc() {
  std::vector<std::unique_ptr<char[]>> blocks;
  while (true) blocks.emplace_back(new char[std::size_t{1} << 44]);
}
FUNCTION void bad_array_length() {
  const std::unique_ptr<long[]> block(new long[opaque(std::size_t{1} << 62)]);
  printf("%p\n", static_cast<void*>(block.get()));
}
FUNCTION void container_assertion() {
  std::vector<int> levels(3);
  levels[opaque(7U)] = 1;  // built with _GLIBCXX_ASSERTIONS
}
FUNCTION void logged_exception_then_null() {
  try {
    runtime_error();
  } catch (const std::exception& error) {
    fprintf(stderr, "terminate called after throwing an instance of 'std::x'\n  what():  %s\n",
            error.what());
  }
  *opaque(static_cast<volatile int*>(nullptr)) = 1;
}
FUNCTION void null_object() {
  const auto* text = opaque(static_cast<std::string*>(nullptr));
  printf("%zu\n", text->size());
}

// ---- deadlocks ----------------------------------------------------------------------------------

std::mutex accounts, orders, positions;
std::shared_mutex book, ledger;
std::recursive_mutex nested_one, nested_two;

// Each thread takes its first lock, waits for the others, and goes for the next one's.
template <typename First, typename Second>
void take_both(First& first, Second& second, std::barrier<>& all_hold_one, bool tells) {
  const std::lock_guard one(first);
  all_hold_one.arrive_and_wait();
  if (tells) ready();
  const std::lock_guard two(second);
}
FUNCTION void two_mutexes() {
  std::barrier barrier(2);
  std::thread booking([&] { take_both(orders, accounts, barrier, false); });
  take_both(accounts, orders, barrier, true);
  booking.join();
}
FUNCTION void three_mutexes() {
  std::barrier barrier(3);
  std::thread one([&] { take_both(orders, accounts, barrier, false); });
  std::thread two([&] { take_both(accounts, positions, barrier, false); });
  take_both(positions, orders, barrier, true);
  one.join();
  two.join();
}
FUNCTION void two_read_write_locks() {
  std::barrier barrier(2);
  std::thread booking([&] { take_both(ledger, book, barrier, false); });
  take_both(book, ledger, barrier, true);
  booking.join();
}
FUNCTION void reader_and_mutex() {
  // One holds a mutex and wants to read; the other writes and wants the mutex.
  std::barrier barrier(2);
  std::thread writer([&] { take_both(book, accounts, barrier, false); });
  const std::lock_guard one(accounts);
  barrier.arrive_and_wait();
  ready();
  const std::shared_lock two(book);
}
FUNCTION void two_recursive_mutexes() {
  std::barrier barrier(2);
  std::thread other([&] { take_both(nested_two, nested_one, barrier, false); });
  const std::lock_guard again(nested_one);
  take_both(nested_one, nested_two, barrier, true);
}
FUNCTION void priority_mutexes() {
  static pthread_mutex_t one, two;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
  pthread_mutex_init(&one, &attributes);
  pthread_mutex_init(&two, &attributes);
  // The kernel itself refuses a circle of these (EDEADLK), so one of them waits for a thread that
  // waits for an ordinary mutex.
  std::barrier barrier(2);
  std::thread other([&] {
    const std::lock_guard guard(accounts);
    barrier.arrive_and_wait();
    pthread_mutex_lock(&one);
  });
  pthread_mutex_lock(&one);
  barrier.arrive_and_wait();
  ready();
  const std::lock_guard guard(accounts);
}
FUNCTION void self_mutex() {
  const std::lock_guard one(accounts);
  ready();
  accounts.lock();
}
FUNCTION void join_while_holding() {
  const std::lock_guard one(accounts);
  std::thread worker([] { const std::lock_guard two(accounts); });
  ready();
  worker.join();
}
FUNCTION void abandoned_mutex() {
  std::thread([] { accounts.lock(); }).join();
  ready();
  accounts.lock();
}
FUNCTION void locked_over_fork() {
  accounts.lock();
  // The child has the lock, and not the thread that holds it.
  if (fork() == 0) {
    ready();
    accounts.lock();
  }
  wait(nullptr);
}

// ---- no deadlocks -------------------------------------------------------------------------------

std::condition_variable changed;
FUNCTION void condition_wait() {
  std::thread other([] {
    std::unique_lock lock(accounts);
    changed.wait(lock, [] { return false; });
  });
  std::unique_lock lock(accounts);
  ready();
  changed.wait(lock, [] { return false; });
}
FUNCTION void semaphore_wait() {
  static sem_t semaphore;
  sem_init(&semaphore, 0, 0);
  std::thread other([] { sem_wait(&semaphore); });
  ready();
  sem_wait(&semaphore);
}
FUNCTION void pipe_read() {
  int ends[2];
  if (pipe(ends) != 0) _exit(91);
  ready();
  char byte;
  if (read(ends[0], &byte, 1) < 0) _exit(92);
}
FUNCTION void lock_holder_reads() {
  // One waits for a lock whose holder waits for the world: slow, but no circle.
  std::thread other([] {
    std::this_thread::sleep_for(50ms);
    const std::lock_guard guard(accounts);
  });
  const std::lock_guard guard(accounts);
  pipe_read();
}
FUNCTION void contended_locks() {
  // Eight threads take two locks in one order, again and again.
  for (int i = 0; i < 8; ++i) {
    std::thread([] {
      while (true) {
        const std::lock_guard one(accounts);
        const std::lock_guard two(orders);
        std::this_thread::sleep_for(100us);
      }
    }).detach();
  }
  ready();
  wait_for_ever();
}
FUNCTION void timed_locks() {
  // A circle of waits that give up, and try again.
  static std::timed_mutex one, two;
  const auto take = [](std::timed_mutex& first, std::timed_mutex& second) {
    while (true) {
      const std::lock_guard guard(first);
      std::this_thread::sleep_for(5ms);
      if (second.try_lock_for(200ms)) second.unlock();
    }
  };
  std::thread([&] { take(two, one); }).detach();
  ready();
  take(one, two);
}
FUNCTION void shared_between_processes() {
  // Held by the parent, waited for by the child: the runner asks about the parent's child.
  auto* mutex = static_cast<pthread_mutex_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(mutex, &attributes);
  pthread_mutex_lock(mutex);
  if (fork() == 0) {
    ready();
    pthread_mutex_lock(mutex);
  }
  wait(nullptr);
}
FUNCTION void future_wait() {
  std::promise<int> promise;
  std::future<int> future = promise.get_future();
  ready();
  printf("%d\n", future.get());
}
FUNCTION void readers_hold() {
  // Writers wait for a reader that sleeps: nobody knows the reader, so there is no circle.
  std::shared_lock lock(book);
  std::thread writer([] { const std::lock_guard guard(book); });
  ready();
  wait_for_ever();
}

// ---- loops and ends -----------------------------------------------------------------------------

std::atomic<bool> go_on = true;
FUNCTION long mix(long value) {
  for (int i = 0; i < 1000; ++i) value = value * 6364136223846793005 + 1442695040888963407;
  return opaque(value);
}
FUNCTION void reprice() {
  long value = 1;
  while (go_on.load(std::memory_order_relaxed)) value = mix(value);
}
FUNCTION void busy_loop() {
  ready();
  reprice();
}
FUNCTION void busy_loop_in_thread() {
  std::thread feed(reprice);
  ready();
  wait_for_ever();
}
FUNCTION void two_busy_loops() {
  std::thread feed(reprice);
  busy_loop();
}
FUNCTION void lock_free_spin() {
  // Waits for a flag that nobody sets.
  std::atomic<int> turn = 0;
  ready();
  while (turn.load(std::memory_order_acquire) == 0) {
  }
}
FUNCTION void exit_hang() {
  // A static condition variable that a detached thread waits for: its destruction never ends.
  static std::mutex mutex;
  static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
  std::thread([] {
    std::unique_lock lock(mutex);
    while (true) pthread_cond_wait(&never, mutex.native_handle());
  }).detach();
  std::this_thread::sleep_for(100ms);
  atexit([] { pthread_cond_destroy(&never); });
  ready();
  exit(0);
}
FUNCTION void stopped() {
  ready();
  raise(SIGSTOP);
}

struct Mode {
  const char* name;
  void (*run)();
};
#define MODE(name) \
  Mode {           \
    #name, name    \
  }
const Mode kModes[] = {
    MODE(runtime_error),
    MODE(own_exception),
    MODE(thrown_integer),
    MODE(out_of_range),
    MODE(bad_variant),
    Mode{"in_noexcept", [] { in_noexcept(); }},
    MODE(in_thread),
    MODE(in_destructor),
    MODE(joinable_destroyed),
    MODE(terminate_called),
    MODE(pure_virtual),
    MODE(bad_alloc),
    MODE(bad_array_length),
    MODE(container_assertion),
    MODE(logged_exception_then_null),
    MODE(null_object),
    MODE(two_mutexes),
    MODE(three_mutexes),
    MODE(two_read_write_locks),
    MODE(reader_and_mutex),
    MODE(two_recursive_mutexes),
    MODE(priority_mutexes),
    MODE(self_mutex),
    MODE(join_while_holding),
    MODE(abandoned_mutex),
    MODE(locked_over_fork),
    MODE(condition_wait),
    MODE(semaphore_wait),
    MODE(pipe_read),
    MODE(lock_holder_reads),
    MODE(contended_locks),
    MODE(timed_locks),
    MODE(shared_between_processes),
    MODE(future_wait),
    MODE(readers_hold),
    MODE(busy_loop),
    MODE(busy_loop_in_thread),
    MODE(two_busy_loops),
    MODE(lock_free_spin),
    MODE(exit_hang),
    MODE(stopped),
};

}  // namespace

int main(int argc, char** argv) {
  for (const Mode& mode : kModes) {
    if (argc == 2 && std::strcmp(mode.name, argv[1]) == 0) {
      mode.run();
      return 0;
    }
  }
  fprintf(stderr, "usage: victim_cpp MODE\n");
  return 96;
}
