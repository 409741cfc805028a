#include "defib/os/fd.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace defib::os {

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Error system_error(std::string_view call, std::string_view path, int error_number) {
  const int number = error_number != 0 ? error_number : errno;
  Code code = Code::kSystemCallFailed;
  switch (number) {
    case ENOENT:
      code = Code::kFileNotFound;
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = Code::kPermissionDenied;
      break;
    case ENOSPC:
    case EDQUOT:
      code = Code::kNoSpace;
      break;
    case EIO:
      code = Code::kIoError;
      break;
    case EMFILE:
    case ENFILE:
      code = Code::kTooManyDescriptors;
      break;
    case EEXIST:
      code = Code::kFileExists;
      break;
    case ESRCH:
      code = Code::kProcessGone;
      break;
    default:
      break;
  }
  Error error(code, path.empty() ? fmt::format("{}: {}", call, std::strerror(number))
                                 : fmt::format("{}({}): {}", call, path, std::strerror(number)));
  error = std::move(error).with("call", call).with("errno", std::int64_t{number});
  return path.empty() ? error : std::move(error).with("path", path);
}

}  // namespace defib::os
