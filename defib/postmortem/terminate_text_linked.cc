// The half of terminate_text.h that needs a C++ runtime: kept apart, so that linking the other half
// pulls in none.

#include <cxxabi.h>

#include <exception>

#include "defib/postmortem/terminate_text.h"

namespace defib::postmortem {

bool install_terminate_text(CrashPage* page) {
  CxxRuntime runtime;
  runtime.set_terminate = &std::set_terminate;
  // The two types are returned the same way: through memory, as neither is trivial. The step over
  // void (*)() is how GCC wants to be told that a cast between function types is meant.
  runtime.current_exception = reinterpret_cast<decltype(runtime.current_exception)>(
      reinterpret_cast<void (*)()>(&std::current_exception));
  runtime.current_exception_type = &abi::__cxa_current_exception_type;
  runtime.demangle = &abi::__cxa_demangle;
  runtime.std_exception = &typeid(std::exception);
  return install_terminate_text(page, runtime);
}

}  // namespace defib::postmortem
