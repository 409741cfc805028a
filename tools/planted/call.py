"""Bugs of the call level."""

RING = "defib/call/ring.h"
RING_CC = "defib/call/ring.cc"
SESSION = "defib/call/session.cc"
WORKER = "defib/call/worker.cc"
HOST = "defib/call/host.cc"
FAULT = "defib/call/session_fault.cc"

BUGS = [
    ("a record is published before it is complete", "StreamKill.*:Stream.*",
     [("defib/call/plugin.h", """      records()[ring_->head() & (ring_->capacity() - 1)] = record;
      ring_->advance(1);
      ring_->publish();
""", """      ring_->advance(1);
      ring_->publish();
      records()[(ring_->head() - 1) & (ring_->capacity() - 1)] = record;
""")]),
    ("an impossible position is believed", "HostileRing.*",
     [(RING, "if (head - position_ > capacity_ || head < head_seen_) return false;", "")]),
    ("an impossible length is believed", "HostileMemory.*:Stream.*",
     [(RING_CC, "if (units > ring.ready() || units > to_end) return MessageRead::kBroken;", "")]),
    ("an impossible reply's size is believed", "HostileReply.*",
     [(SESSION, "                               std::min(header.size, geometry.reply_bytes));",
       "                               header.size);"),
      (SESSION, "if (header.size > geometry.reply_bytes && !too_large) {", "if (false && !too_large) {")]),
    ("a fault is forgotten", "Host.AZygoteThatDies*",
     [(SESSION, "  if (!faulted_.load(std::memory_order_acquire)) return std::nullopt;",
       "  return std::nullopt;"),
      (SESSION, "  if (faulted_.load(std::memory_order_acquire)) return pending_error();", "")]),
    ("the end of a worker is not told", "Fault.AnIdle*:Host.*",
     [(HOST, "  if (ended) ended(end);", "")]),
    ("an explanation that is refused at once is forgotten", "Fault.ACrashWhoseExplanation*",
     [(FAULT, "      refused_ = std::move(json);\n", "")]),
    ("a child that nobody watches is left behind", "RunCallable.AChildThatCannot*",
     [(SESSION, "    kill(pid, SIGKILL);\n    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) "
                "{\n    }\n", "")]),
    ("the zygote waits until it is heard", "Host.AZygoteTakesOrders*",
     [("defib/call/zygote.cc", "MSG_NOSIGNAL | MSG_DONTWAIT);", "MSG_NOSIGNAL);")]),
    ("the watch of a worker that ended at once stays", "Fault.CrashesInARow*",
     [(HOST, "      if (!workers_.contains(worker->number)) return;\n    }\n", "    }\n")]),
    ("a stream's records come after its crash", "HostileStream.*",
     [(SESSION, """      // What was published before the crash is whole, and stays readable.
      if (more()) break;
""", ""),
      (SESSION, "memory_order_acquire) != seen || more();", "memory_order_acquire) != seen;")]),
    ("the isolation is not applied", "Catalogue/Victims.*",
     [(WORKER, "apply_isolation(launch->isolation); !applied", "Result<>(); !applied")]),
    ("the alternate stack of a stream's thread is missing", "Fault.AStackOverflow*",
     [(WORKER, "    postmortem::guard_thread_stack();\n", "")]),
    ("a secret stands in the summary", "Call.ASecret*:Summary.*",
     [("defib/call/codec.h", '    out += "***";', "    summarize(out, value.value);")]),
    ("a number that its enumeration does not have is one", "Codec.AnEnumeration*",
     [("defib/call/codec.h", """    const bool known = value == to(first) || (... || (value == to(others)));
""", """    const bool known = value != 0 || (... || (value == to(others)));
""")]),
    ("enumerations that are checked lie in lists unchecked", "Codec.AnEnumeration*:AnyBits.*",
     [("defib/call/codec.h", "    !HasWireForm<T> && (std::is_integral_v<T>", "    (std::is_integral_v<T>")]),
    ("a surrogate is a character", "Codec.AText*",
     [("defib/call/codec.h", "(byte_in(0xed, 0xed) && byte_in(0x80, 0x9f) && rest(1))",
       "(byte_in(0xed, 0xed) && byte_in(0x80, 0xbf) && rest(1))")]),
    ("the breaker is not asked", "Recovering.TheBreaker*",
     [("defib/call/recovering.h", "    DEFIB_TRY(breaker_.allow());\n", "")]),
    ("a stream goes on from its last record and not behind it", "StreamKill.*",
     [("defib/call/recovering.h", "          last = *record;\n          if", "          if")]),
]

# Calls without types: signatures, JSON, the C face.

SCHEMA = "defib/call/schema.cc"
CODEC = "defib/call/json_codec.cc"
DYNAMIC = "defib/call/dynamic.cc"
FACE = "defib/call/call_c.cc"

BUGS += [
    ("a record's members lie without padding", "Schema.Structures*", [
        (SCHEMA, "    end = (end + part.align - 1) / part.align * part.align + part.size;\n",
         "    end += part.size;\n")]),
    ("types may nest without a bound", "Schema.AHostile*", [
        (SCHEMA, "    if (depth == kMaxTypeDepth) return",
         "    if (depth == -kMaxTypeDepth) return")]),
    ("a length is believed", "JsonCodec.WhatIsNoValue*", [
        (CODEC, "take(&count, sizeof count) && count <= left_.size();",
         "take(&count, sizeof count);")]),
    ("bytes that are left over are nobody's business", "JsonCodec.WhatIsNoValue*", [
        (CODEC, "  } else if (!decoder.done()) {\n", "  } else if (bytes.size() > 4096) {\n")]),
    ("a key may stand twice", "JsonCodec.WhatIsNoValue*", [
        (CODEC, "if (!keys.insert(start.substr(0, start.size() - left_.size())).second) "
                "return false;\n",
         "keys.insert(start.substr(0, start.size() - left_.size()));\n")]),
    ("a wrong argument is shown beside a secret", "JsonCodec.NoValueIsShown*", [
        (CODEC, "JsonEncoder encoder(bytes, signature.has_secret());",
         "JsonEncoder encoder(bytes, false);")]),
    ("a secret stands in the summary", "JsonCodec.NoValueIsShown*:Dynamic.ASecret*", [
        (CODEC, "  if (type.kind == TypeKind::kSecret) {\n    out += \"***\";\n    return;\n  }\n",
         "")]),
    ("records are read by a structure of another size", "Dynamic.RecordsAreRead*", [
        (DYNAMIC, "signature.result->size == signature.record_size) return {};",
         "signature.result->size <= signature.record_size) return {};")]),
    ("a member of a record is looked for without its padding", "JsonCodec.ARecord*", [
        (CODEC, "    offset = (offset + part.align - 1) / part.align * part.align;\n", "")]),
    ("the last error in C is cut without an end", "CallInC.TheLastError*", [
        (FACE, "    to[copied] = '\\0';\n", "")]),
]
