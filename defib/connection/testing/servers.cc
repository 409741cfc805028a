#include "defib/connection/testing/servers.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/socket.h"
#include "defib/os/tcp.h"

namespace defib::connection::testing {
namespace {

using namespace std::chrono_literals;

constexpr const char* kPostgresPrograms = "/usr/lib/postgresql/15/bin/";

// The user for servers that refuse to run as root.
std::string server_owner(const char* wanted) {
  if (::geteuid() != 0) return {};
  for (const char* name : {wanted, "nobody"}) {
    if (::getpwnam(name) != nullptr) return name;
  }
  return "nobody";
}

std::vector<std::string> run_as(const std::string& owner, std::vector<std::string> argv) {
  if (owner.empty()) return argv;
  const passwd* user = ::getpwnam(owner.c_str());
  std::vector<std::string> out = {"setpriv",
                                  fmt::format("--reuid={}", user->pw_uid),
                                  fmt::format("--regid={}", user->pw_gid),
                                  "--clear-groups",
                                  "--pdeathsig",
                                  "KILL"};
  out.insert(out.end(), argv.begin(), argv.end());
  return out;
}

Result<> run_checked(const std::vector<std::string>& argv, int timeout_ms = 120'000) {
  DEFIB_TRY_ASSIGN(const os::CommandOutput output, os::run_command(argv, timeout_ms));
  if (output.status.success()) return {};
  return Error(Code::kInternal, fmt::format("{} failed ({}): {}", argv.front(),
                                            output.status.to_string(), output.text));
}

Result<os::Child> spawn_logging(const std::vector<std::string>& argv, const std::string& log) {
  os::Fd out(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (!out.valid()) return os::system_error("open", log);
  os::SpawnOptions options;
  options.argv = argv;
  options.fds = {{out.get(), 1}, {out.get(), 2}};
  options.parent_death_signal = SIGKILL;
  options.working_directory = "/";
  return os::spawn(options);
}

Result<> await_child(os::Child& child, os::Duration limit) {
  const std::int64_t until = os::real_clock().mono_ns() + limit.count();
  while (!child.try_wait()) {
    if (os::real_clock().mono_ns() > until) {
      return Error(Code::kTimeout, fmt::format("process {} does not end", child.pid()));
    }
    os::real_clock().sleep_for(2ms);
  }
  return {};
}

Result<> end_child(os::Child& child, int signal) {
  if (!child.valid()) return {};
  (void)child.signal(signal);
  DEFIB_TRY(await_child(child, 30s));
  child = os::Child();
  return {};
}

}  // namespace

TempDir::TempDir(const std::string& owner) {
  char name[] = "/tmp/defib-db-XXXXXX";
  path_ = ::mkdtemp(name);
  if (!owner.empty()) give_to(owner);
}

TempDir::~TempDir() {
  (void)os::run_command({"rm", "-rf", path_}, 60'000);
}

void TempDir::give_to(const std::string& owner) const {
  (void)os::run_command({"chown", "-R", owner, path_}, 10'000);
  ::chmod(path_.c_str(), 0755);
}

Result<TlsFiles> make_certificate(const std::string& dir, const std::string& name,
                                  const std::string& authority_of) {
  const std::string base = os::join_path(dir, name);
  const std::string ca = authority_of.empty() ? base + "-ca" : authority_of;
  if (authority_of.empty()) {
    DEFIB_TRY(
        run_checked({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                     "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                     "/CN=" + name + " authority", "-keyout", ca + ".key", "-out", ca + ".crt"}));
  }
  DEFIB_TRY(
      run_checked({"openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                   "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                   "-keyout", base + ".key", "-out", base + ".csr"}));
  DEFIB_TRY(run_checked({"openssl", "x509", "-req", "-in", base + ".csr", "-CA", ca + ".crt",
                         "-CAkey", ca + ".key", "-CAcreateserial", "-days", "2", "-copy_extensions",
                         "copy", "-out", base + ".crt"}));
  return TlsFiles{ca + ".crt", base + ".crt", base + ".key"};
}

bool have_postgres() {
  return ::access((std::string(kPostgresPrograms) + "postgres").c_str(), X_OK) == 0;
}

bool have_mariadb() {
  return ::access("/usr/sbin/mariadbd", X_OK) == 0;
}

PostgresServer::PostgresServer() : dir_(server_owner("postgres")) {}

PostgresServer::~PostgresServer() {
  (void)kill_all();
}

std::vector<std::string> PostgresServer::as_owner(std::vector<std::string> argv) const {
  return run_as(server_owner("postgres"), std::move(argv));
}

Result<std::unique_ptr<PostgresServer>> PostgresServer::start(const ServerOptions& options) {
  std::unique_ptr<PostgresServer> server(new PostgresServer);
  DEFIB_TRY(server->initialize(options));
  DEFIB_TRY(server->launch());
  DEFIB_TRY(server->wait_until_ready());
  return server;
}

Result<> PostgresServer::initialize(const ServerOptions& options) {
  const std::string data = os::join_path(dir_.path(), "data");
  const std::string password = os::join_path(dir_.path(), "password");
  DEFIB_TRY(os::write_file_atomically(os::real_files(), password, std::string(kPassword) + "\n"));
  ::chmod(password.c_str(), 0644);
  DEFIB_TRY(run_checked(
      as_owner({std::string(kPostgresPrograms) + "initdb", "-D", data, "-U", kUser, "-A",
                "scram-sha-256", "--pwfile", password, "--no-sync", "-E", "UTF8", "--locale=C"})));
  DEFIB_TRY_ASSIGN(port_, os::free_port());
  std::string config = fmt::format(
      "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n"
      "max_connections = 200\nshared_buffers = 16MB\nfsync = on\n",
      port_, dir_.path());
  for (const std::string& setting : options.settings) config += setting + "\n";
  if (options.read_only) config += "default_transaction_read_only = on\n";
  if (options.standby) {
    DEFIB_TRY(run_checked(as_owner({"touch", os::join_path(data, "standby.signal")})));
  }
  const std::string path = os::join_path(data, "postgresql.conf");
  DEFIB_TRY(os::write_file_atomically(os::real_files(), path, config));
  ::chmod(path.c_str(), 0644);
  if (options.tls) {
    DEFIB_TRY_ASSIGN(const TlsFiles files, make_certificate(dir_.path(), "first"));
    DEFIB_TRY(use_certificate(files));
    DEFIB_TRY(os::write_file_atomically(os::real_files(), path,
                                        config + "ssl = on\nssl_cert_file = 'server.crt'\n"
                                                 "ssl_key_file = 'server.key'\n"));
    ::chmod(path.c_str(), 0644);
  }
  return {};
}

Result<> PostgresServer::use_certificate(const TlsFiles& files) {
  const std::string data = os::join_path(dir_.path(), "data");
  for (const auto& [from, to] :
       {std::pair{files.certificate, "/server.crt"}, std::pair{files.key, "/server.key"}}) {
    DEFIB_TRY(run_checked({"cp", from, data + to}));
    ::chmod((data + to).c_str(), 0600);
  }
  const std::string owner = server_owner("postgres");
  if (!owner.empty()) {
    DEFIB_TRY(run_checked({"chown", owner, data + "/server.crt", data + "/server.key"}));
  }
  return {};
}

Result<> PostgresServer::launch() {
  const std::string data = os::join_path(dir_.path(), "data");
  DEFIB_TRY_ASSIGN(
      process_, spawn_logging(as_owner({std::string(kPostgresPrograms) + "postgres", "-D", data}),
                              os::join_path(dir_.path(), "log")));
  return {};
}

Result<> PostgresServer::wait_until_ready() {
  const std::int64_t until = os::real_clock().mono_ns() + os::Duration(60s).count();
  const std::string port = std::to_string(port_);
  while (os::real_clock().mono_ns() < until) {
    const auto ready = os::run_command({std::string(kPostgresPrograms) + "pg_isready", "-q", "-h",
                                        "127.0.0.1", "-p", port, "-t", "2"},
                                       5'000);
    if (ready && ready->status.success()) return {};
    if (process_.try_wait()) break;
    os::real_clock().sleep_for(20ms);
  }
  constexpr std::size_t kShown = 2'000;
  const auto log = os::read_file(os::real_files(), os::join_path(dir_.path(), "log"));
  const std::string text = log ? *log : "no log";
  return Error(Code::kTimeout, "PostgreSQL did not start: " +
                                   text.substr(text.size() - std::min(text.size(), kShown)));
}

Result<> PostgresServer::end(int signal) {
  return end_child(process_, signal);
}
Result<> PostgresServer::stop() {
  return end(SIGINT);
}
Result<> PostgresServer::immediately() {
  return end(SIGQUIT);
}

Result<> PostgresServer::kill_all() {
  if (!process_.valid()) return {};
  // Children first hear of it by the pipe that the postmaster holds; they end by themselves.
  const auto children = os::run_command({"pgrep", "-P", std::to_string(process_.pid())}, 5'000);
  DEFIB_TRY(end(SIGKILL));
  if (!children) return {};
  std::string_view text = children->text;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const pid_t pid = static_cast<pid_t>(::atoi(std::string(text.substr(0, end)).c_str()));
    text.remove_prefix(std::min(end + 1, text.size()));
    const auto pidfd = os::open_pidfd(pid);
    if (pid <= 1 || !pidfd) continue;
    ::kill(pid, SIGKILL);
    pollfd ended = {pidfd->get(), POLLIN, 0};
    ::poll(&ended, 1, 5'000);
  }
  return {};
}

Result<> PostgresServer::restart() {
  // A child that began while its siblings were killed holds the shared memory for a moment longer.
  constexpr int kAttempts = 5;
  for (int attempt = 1;; ++attempt) {
    DEFIB_TRY(launch());
    const Result<> ready = wait_until_ready();
    if (ready || process_.valid() || attempt == kAttempts) return ready;
    os::real_clock().sleep_for(100ms);
  }
}

Result<> PostgresServer::reload() {
  return process_.signal(SIGHUP);
}

std::string PostgresServer::dsn(std::uint16_t port, const std::string& options) const {
  return fmt::format("postgresql://{}:pass%20word%3B1@{}:{}/postgres{}{}", kUser,
                     options.find("verify-full") == std::string::npos ? "127.0.0.1" : "localhost",
                     port == 0 ? port_ : port, options.empty() ? "" : "?", options);
}

std::string PostgresServer::odbc_dsn(std::uint16_t port, const std::string& options) const {
  return fmt::format(
      "odbc:Driver={{PostgreSQL Unicode}};Server={};Port={};Database=postgres;UID={};"
      "PWD={{{}}};{}",
      options.find("verify-full") == std::string::npos ? "127.0.0.1" : "localhost",
      port == 0 ? port_ : port, kUser, kPassword, options);
}

MariadbServer::MariadbServer() : dir_(server_owner("mysql")) {}

MariadbServer::~MariadbServer() {
  (void)kill_all();
}

Result<std::unique_ptr<MariadbServer>> MariadbServer::start(const ServerOptions& options) {
  std::unique_ptr<MariadbServer> server(new MariadbServer);
  DEFIB_TRY(server->initialize(options));
  DEFIB_TRY(server->launch());
  DEFIB_TRY(server->wait_until_ready());
  DEFIB_TRY(server->administer(
      fmt::format("CREATE USER '{0}'@'127.0.0.1' IDENTIFIED BY '{1}'; GRANT ALL ON *.* TO "
                  "'{0}'@'127.0.0.1'; CREATE USER '{0}'@'localhost' IDENTIFIED BY '{1}'; GRANT ALL "
                  "ON *.* TO '{0}'@'localhost'; CREATE DATABASE IF NOT EXISTS test;",
                  kUser, kPassword)));
  return server;
}

Result<> MariadbServer::initialize(const ServerOptions& options) {
  const std::string data = os::join_path(dir_.path(), "data");
  DEFIB_TRY(run_checked(run_as(
      server_owner("mysql"), {"mariadb-install-db", "--no-defaults", "--datadir=" + data,
                              "--skip-test-db", "--auth-root-authentication-method=normal",
                              "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0"})));
  DEFIB_TRY_ASSIGN(port_, os::free_port());
  settings_ = options.settings;
  if (options.read_only) settings_.emplace_back("read-only=1");
  if (options.tls) {
    DEFIB_TRY_ASSIGN(const TlsFiles files, make_certificate(dir_.path(), "first"));
    DEFIB_TRY(place_certificate(files));
    settings_.push_back("ssl-cert=" + os::join_path(dir_.path(), "server.crt"));
    settings_.push_back("ssl-key=" + os::join_path(dir_.path(), "server.key"));
    settings_.push_back("ssl-ca=" + files.authority);
  }
  return {};
}

TlsFiles MariadbServer::first_certificate() const {
  const std::string base = os::join_path(dir_.path(), "first");
  return {base + "-ca.crt", base + ".crt", base + ".key"};
}

Result<> MariadbServer::place_certificate(const TlsFiles& files) {
  const std::string certificate = os::join_path(dir_.path(), "server.crt");
  const std::string key = os::join_path(dir_.path(), "server.key");
  DEFIB_TRY(run_checked({"cp", files.certificate, certificate}));
  DEFIB_TRY(run_checked({"cp", files.key, key}));
  const std::string owner = server_owner("mysql");
  if (!owner.empty()) DEFIB_TRY(run_checked({"chown", owner, certificate, key}));
  return {};
}

Result<> MariadbServer::use_certificate(const TlsFiles& files) {
  DEFIB_TRY(place_certificate(files));
  DEFIB_TRY(administer("FLUSH SSL"));
  return {};
}

Result<> MariadbServer::launch() {
  std::vector<std::string> argv = {"/usr/sbin/mariadbd",
                                   "--no-defaults",
                                   "--datadir=" + os::join_path(dir_.path(), "data"),
                                   "--socket=" + os::join_path(dir_.path(), "socket"),
                                   "--pid-file=" + os::join_path(dir_.path(), "pid"),
                                   "--bind-address=127.0.0.1",
                                   fmt::format("--port={}", port_),
                                   "--innodb-buffer-pool-size=16M",
                                   "--innodb-log-file-size=8M",
                                   "--max-connections=200",
                                   "--skip-name-resolve=1"};
  for (const std::string& setting : settings_) argv.push_back("--" + setting);
  DEFIB_TRY_ASSIGN(process_, spawn_logging(run_as(server_owner("mysql"), std::move(argv)),
                                           os::join_path(dir_.path(), "log")));
  return {};
}

Result<> MariadbServer::wait_until_ready() {
  const std::int64_t until = os::real_clock().mono_ns() + os::Duration(60s).count();
  while (os::real_clock().mono_ns() < until) {
    if (os::connect_tcp("127.0.0.1", port_, 1s)) return {};
    if (process_.try_wait()) break;
    os::real_clock().sleep_for(20ms);
  }
  const auto log = os::read_file(os::real_files(), os::join_path(dir_.path(), "log"));
  return Error(Code::kTimeout, "MariaDB did not start: " + (log ? *log : std::string("no log")));
}

Result<std::string> MariadbServer::administer(const std::string& sql) {
  DEFIB_TRY_ASSIGN(
      const os::CommandOutput output,
      os::run_command({"mariadb", "--no-defaults", "-u", "root",
                       "--socket=" + os::join_path(dir_.path(), "socket"), "-N", "-B", "-e", sql},
                      20'000));
  if (!output.status.success()) return Error(Code::kInternal, "mariadb: " + output.text);
  return output.text;
}

Result<> MariadbServer::end(int signal) {
  return end_child(process_, signal);
}
Result<> MariadbServer::stop() {
  return end(SIGTERM);
}
Result<> MariadbServer::kill_all() {
  return end(SIGKILL);
}
Result<> MariadbServer::restart() {
  DEFIB_TRY(launch());
  return wait_until_ready();
}

std::string MariadbServer::dsn(std::uint16_t port, const std::string& options) const {
  return fmt::format(
      "odbc:Driver={{MariaDB Unicode}};Server={};Port={};Database=test;UID={};PWD={{{}}};{}",
      options.find("ForceTLS") == std::string::npos ? "127.0.0.1" : "localhost",
      port == 0 ? port_ : port, kUser, kPassword, options);
}

}  // namespace defib::connection::testing
