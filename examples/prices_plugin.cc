// A plugin around a vendor's library that has a bug: it uses what it looked up without looking
// whether it was found. Built as prices.so, and used by isolated_http_service.cc and
// call_from_python.py.

#include <time.h>

#include <cstring>

#include "defib/call/plugin.h"
#include "examples/prices_api.h"

// "The vendor's library."
namespace vendor {

struct Instrument {
  const char* symbol;
  double price;
  double drift;  // a day
};
constexpr Instrument kInstruments[] = {{"ESM4", 5300.25, 0.5}, {"CLN4", 78.5, -0.125}};

const Instrument* find(const char* symbol) {
  for (const Instrument& instrument : kInstruments) {
    if (std::strcmp(instrument.symbol, symbol) == 0) return &instrument;
  }
  return nullptr;
}

double price(const char* symbol, int days) {
  const volatile Instrument* instrument = find(symbol);
  return instrument->price + instrument->drift * days;
}

}  // namespace vendor

namespace examples {
namespace {

double price(std::string symbol, int days) {
  return vendor::price(symbol.c_str(), days);
}

void ticks(defib::call::Writer<Tick>& out, std::string symbol, std::int64_t count) {
  constexpr timespec kPause = {0, 100'000};
  const auto start = static_cast<std::int64_t>(vendor::price(symbol.c_str(), 0) * 1e9);
  for (std::int64_t number = 0; count == 0 || number < count; ++number) {
    if (!out.push({number, start + number % 100 * 250'000'000})) return;
    if (count == 0) nanosleep(&kPause, nullptr);  // as a feed would
  }
}

}  // namespace
}  // namespace examples

DEFIB_CALL_PLUGIN(examples::PricesApi, defib::call::On<examples::PricesApi::Price, examples::price>,
                  defib::call::On<examples::PricesApi::Ticks, examples::ticks>)
