// The three ways to a receiver. Internal to the sender.

#pragma once

#include <vector>

#include "defib/alert/book.h"
#include "defib/alert/receiver.h"
#include "defib/base/error.h"

namespace defib::alert {

Attempt send_webhook(const Receiver& receiver, const std::vector<Message>& messages);
Attempt send_mail(const Receiver& receiver, const Message& message);
Attempt send_command(const Receiver& receiver, const Message& message);

// What a value or a reference to a secret stands for.
Result<std::string> resolve(const std::string& value_or_reference);

}  // namespace defib::alert
