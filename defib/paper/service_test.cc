// The service as a whole: many clients at once, and a ledger that stops taking bytes.

#include "defib/paper/service.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "defib/os/pass_through_files.h"
#include "defib/paper/audit.h"
#include "defib/paper/testing.h"

namespace defib::paper {
namespace {

using testing::dec;

// The kernel's files, until told that the disk is full.
class FailingFiles : public os::PassThroughFiles {
 public:
  FailingFiles() : PassThroughFiles(os::real_files()) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    return std::unique_ptr<os::File>(new FailingFile(std::move(file), full));
  }
  std::atomic<bool> full = false;

 private:
  class FailingFile : public os::PassThroughFile {
   public:
    FailingFile(std::unique_ptr<os::File> file, const std::atomic<bool>& full)
        : PassThroughFile(std::move(file)), full_(full) {}
    Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
      if (full_) return Error(Code::kNoSpace, "the disk is full");
      return file_->write_at(offset, bytes);
    }

   private:
    const std::atomic<bool>& full_;
  };
};

class ServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/paper-service-XXXXXX";
    directory_ = mkdtemp(pattern);
    options_.binance = {"key", "secret", {0, 0}};
    options_.ledger_path = directory_ + "/ledger.jsonl";
    options_.deposits = {{"USDT", dec("1000000")}};
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  wire::HttpRequest order(std::string_view id) const {
    const std::string payload = fmt::format(
        "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.001&price=50000&"
        "newClientOrderId={}&recvWindow=60000&timestamp={}",
        id, clock_.wall_ns() / 1'000'000);
    return {"POST",
            "/api/v3/order?" + payload + "&signature=" + hmac_sha256_hex("secret", payload),
            {{"X-MBX-APIKEY", "key"}},
            {}};
  }

  std::string directory_;
  os::FakeClock clock_;
  FailingFiles files_;
  Service::Options options_;
};

TEST_F(ServiceTest, ServesManyClientsAtOnceWithoutLosingAnOrder) {
  constexpr int kClients = 4;
  constexpr int kOrders = 100;
  const auto service = std::move(*Service::open(options_, files_, clock_));
  std::atomic<int> accepted = 0;
  {
    std::vector<std::jthread> threads;
    for (int client = 0; client < kClients; ++client) {
      threads.emplace_back([&, client] {
        for (int i = 0; i < kOrders; ++i) {
          const auto reply = service->trade(order(fmt::format("c{}-{}", client, i)));
          if (reply.response.status == 200) ++accepted;
        }
      });
    }
    threads.emplace_back([&] {
      for (int i = 0; i < kOrders; ++i) {
        clock_.advance(std::chrono::milliseconds(20));
        service->tick();
        service->administer({"GET", "/paper/state", {}, {}});
      }
    });
  }
  EXPECT_EQ(accepted, kClients * kOrders);
  std::vector<Intent> intents;
  for (int client = 0; client < kClients; ++client) {
    for (int i = 0; i < kOrders; ++i) {
      intents.push_back({fmt::format("c{}-{}", client, i), Belief::kAccepted});
    }
  }
  const AuditReport report = *audit(files_, options_.ledger_path, intents);
  EXPECT_TRUE(report.ok()) << report.to_text();
  EXPECT_EQ(report.digest, service->digest());
}

// An answer that no ledger backs would make the oracle lie, so there is none.
TEST_F(ServiceTest, SaysNothingMoreOnceTheLedgerCannotBeWritten) {
  const auto service = std::move(*Service::open(options_, files_, clock_));
  EXPECT_EQ(service->trade(order("before")).response.status, 200);
  files_.full = true;
  EXPECT_EQ(service->trade(order("during")).delivery, wire::HttpServer::Delivery::kDropConnection);
  EXPECT_TRUE(service->failed());
  files_.full = false;
  EXPECT_EQ(service->trade(order("after")).delivery, wire::HttpServer::Delivery::kDropConnection);
  const AuditReport report = *audit(files_, options_.ledger_path,
                                    {{{"before", Belief::kAccepted},
                                      {"during", Belief::kNeverAccepted},
                                      {"after", Belief::kNeverAccepted}}});
  EXPECT_TRUE(report.ok()) << report.to_text();
}

TEST_F(ServiceTest, LedgerThatCannotBeMadeIsAnError) {
  options_.ledger_path = directory_ + "/absent/ledger.jsonl";
  EXPECT_EQ(Service::open(options_, files_, clock_).error().code(), Code::kFileNotFound);
  options_.ledger_path = directory_ + "/ledger.jsonl";
  options_.deposits = {{"DOGE", dec("1")}};
  EXPECT_EQ(Service::open(options_, files_, clock_).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace defib::paper
