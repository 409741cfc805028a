// A plugin with records that only a typed client can read, and some that others can.

#include "defib/call/testcases/odd_records.h"

#include "defib/call/plugin.h"

namespace defib::call::testcases {
namespace {

void padded(Writer<Padded>& out, int count) {
  for (int i = 0; i < count; ++i) {
    const auto number = static_cast<std::int16_t>(i);
    const Padded record = {1, i * 0.5, {number, 7, -9}, 255};
    if (!out.push(record)) return;
  }
}

void aligned(Writer<Aligned>& out, int count) {
  for (int i = 0; i < count; ++i) {
    if (!out.push(Aligned{i})) return;
  }
}

void opaque(Writer<Opaque>& out, int count) {
  for (int i = 0; i < count; ++i) {
    if (!out.push(Opaque(static_cast<std::uint16_t>(i)))) return;
  }
}

void orders(Writer<Order>& out, int count) {
  for (int i = 0; i < count; ++i) {
    if (!out.push({i, static_cast<Side>(i + 1)})) return;
  }
}

std::string place(Side side, Utf8 note) {
  return (side == Side::kBuy ? "buy " : "sell ") + note.value;
}

}  // namespace
}  // namespace defib::call::testcases

using namespace defib::call::testcases;  // NOLINT(google-build-using-namespace)
using defib::call::On;
DEFIB_CALL_PLUGIN(OddApi, On<OddApi::PaddedOnes, padded>, On<OddApi::AlignedOnes, aligned>,
                  On<OddApi::OpaqueOnes, opaque>, On<OddApi::Orders, orders>,
                  On<OddApi::Place, place>)
