#include "defib/postmortem/terminate_text.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <exception>
#include <new>

namespace defib::postmortem {
namespace {

struct Installed {
  CrashPage* page = nullptr;
  CxxRuntime runtime;
  CxxRuntime::TerminateHandler previous = nullptr;
};
constinit Installed installed;

// Appends to the page's message; what does not fit is left out.
struct MessageWriter {
  CrashPage& page;
  std::size_t size = 0;

  void add(const char* text) {
    for (; text != nullptr && *text != '\0' && size < sizeof page.message - 1; ++text) {
      page.message[size++] = *text;
    }
    page.message[size] = '\0';
  }
};

// The text of an exception derived from std::exception, or nullptr. The pointer to the object is
// adjusted by the runtime's own catch matching, since the base may lie inside of it.
const char* text_of(const std::type_info& type) {
  const CxxRuntime& runtime = installed.runtime;
  if (runtime.current_exception == nullptr || runtime.std_exception == nullptr) return nullptr;
  alignas(CxxRuntime::HeldException) unsigned char memory[sizeof(CxxRuntime::HeldException)];
  auto* held = new (memory) CxxRuntime::HeldException(runtime.current_exception());
  void* object = held->object;
  if (object == nullptr) return nullptr;
  if (!runtime.std_exception->__do_catch(&type, &object, 1)) return nullptr;
  return static_cast<const std::exception*>(object)->what();
}

void on_terminate() {
  MessageWriter out{*installed.page};
  const CxxRuntime& runtime = installed.runtime;
  const std::type_info* type =
      runtime.current_exception_type != nullptr ? runtime.current_exception_type() : nullptr;
  if (type == nullptr) {
    out.add(kTerminateText);
  } else {
    int status = -1;
    char* name = runtime.demangle != nullptr
                     ? runtime.demangle(type->name(), nullptr, nullptr, &status)
                     : nullptr;
    out.add(kUncaughtPrefix);
    out.add(status == 0 ? name : type->name());
    out.add("'");
    if (const char* text = text_of(*type); text != nullptr) {
      out.add(": ");
      out.add(text);
    }
  }
  if (installed.previous != nullptr) installed.previous();
  abort();
}

template <typename Pointer>
void find(Pointer& pointer, const char* symbol) {
  pointer = reinterpret_cast<Pointer>(dlsym(RTLD_DEFAULT, symbol));
}

}  // namespace

bool install_terminate_text(CrashPage* page, const CxxRuntime& runtime) {
  if (page == nullptr || runtime.set_terminate == nullptr) return false;
  installed.page = page;
  installed.runtime = runtime;
  const CxxRuntime::TerminateHandler previous = runtime.set_terminate(on_terminate);
  if (previous != on_terminate) installed.previous = previous;
  return true;
}

bool install_terminate_text_for_program(CrashPage* page) {
  CxxRuntime runtime;
  find(runtime.set_terminate, "_ZSt13set_terminatePFvvE");
  find(runtime.current_exception, "_ZSt17current_exceptionv");
  find(runtime.current_exception_type, "__cxa_current_exception_type");
  find(runtime.demangle, "__cxa_demangle");
  runtime.std_exception =
      static_cast<const std::type_info*>(dlsym(RTLD_DEFAULT, "_ZTISt9exception"));
  return install_terminate_text(page, runtime);
}

}  // namespace defib::postmortem
