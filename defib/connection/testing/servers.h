// Real database servers for tests and benchmarks, on loopback and on free ports, each with a new
// directory of its own. Started as another user where the tests run as root, stopped by pid.
//
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/process.h"

namespace defib::connection::testing {

// A directory that is removed with the object.
class TempDir {
 public:
  explicit TempDir(const std::string& owner = {});
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  void give_to(const std::string& owner) const;

 private:
  std::string path_;
};

struct ServerOptions {
  bool tls = false;                        // with a certificate for "localhost", see TlsFiles
  std::vector<std::string> settings = {};  // "max_connections=100"
  bool read_only = false;
  bool standby = false;  // PostgreSQL: in recovery until it is promoted
};

// An authority of its own and a certificate for `name`, made with OpenSSL's program.
struct TlsFiles {
  std::string authority, certificate, key;
};
Result<TlsFiles> make_certificate(const std::string& dir, const std::string& name,
                                  const std::string& authority_of = {});

class PostgresServer {
 public:
  static constexpr const char* kUser = "tester";
  static constexpr const char* kPassword = "pass word;1";
  static Result<std::unique_ptr<PostgresServer>> start(const ServerOptions& options = {});
  ~PostgresServer();

  std::uint16_t port() const { return port_; }
  // For libpq, through another port where one is given.
  std::string dsn(std::uint16_t port = 0, const std::string& options = {}) const;
  std::string odbc_dsn(std::uint16_t port = 0, const std::string& options = {}) const;
  const std::string& dir() const { return dir_.path(); }
  pid_t pid() const { return process_.pid(); }

  Result<> stop();         // "fast"
  Result<> immediately();  // "immediate": as a crash
  Result<> kill_all();     // kill -9 of the postmaster and its backends
  Result<> restart();      // starts what was stopped, on the same port and data
  // Starts the process and does not wait until it answers.
  Result<> launch();
  Result<> wait_until_ready();
  Result<> reload();
  Result<> use_certificate(const TlsFiles& files);

 private:
  PostgresServer();
  Result<> initialize(const ServerOptions& options);
  std::vector<std::string> as_owner(std::vector<std::string> argv) const;
  Result<> end(int signal);

  TempDir dir_;
  std::uint16_t port_ = 0;
  os::Child process_;
};

class MariadbServer {
 public:
  static constexpr const char* kUser = "tester";
  static constexpr const char* kPassword = "pass word;1";
  static Result<std::unique_ptr<MariadbServer>> start(const ServerOptions& options = {});
  ~MariadbServer();

  std::uint16_t port() const { return port_; }
  std::string dsn(std::uint16_t port = 0, const std::string& options = {}) const;
  Result<> stop();
  Result<> kill_all();
  Result<> restart();
  Result<> launch();
  Result<> wait_until_ready();
  // Exchanged while it runs; also back to the `first` one of its directory.
  Result<> use_certificate(const TlsFiles& files);
  TlsFiles first_certificate() const;
  // Through the local socket, as the administrator.
  Result<std::string> administer(const std::string& sql);
  const std::string& dir() const { return dir_.path(); }

 private:
  MariadbServer();
  Result<> initialize(const ServerOptions& options);
  Result<> place_certificate(const TlsFiles& files);
  Result<> end(int signal);

  TempDir dir_;
  std::uint16_t port_ = 0;
  os::Child process_;
  std::vector<std::string> settings_;
};

// Whether the server's program is installed.
bool have_postgres();
bool have_mariadb();

}  // namespace defib::connection::testing
