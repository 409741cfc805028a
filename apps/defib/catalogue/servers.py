"""Redis, nginx and PostgreSQL, crashed by real signals, by their own debugging commands, and by
configurations that are wrong. On loopback, on free ports."""

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time


def program(name):
    """The path of a server's program; None where it is not installed."""
    if name in ("postgres", "initdb"):
        found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
        return found[-1] if found else None
    return shutil.which(name) or (f"/usr/sbin/{name}" if os.path.exists(f"/usr/sbin/{name}")
                                  else None)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def connect(rig, port):
    connection = []

    def look():
        try:
            connection.append(socket.create_connection(("127.0.0.1", port), 1))
            return True
        except OSError:
            return rig.run_.poll() is not None
    rig.until(look, f"nobody listens on port {port}")
    if not connection:
        raise RuntimeError("the server ended: " + rig.text()[-300:])
    return connection[0]


# ---- Redis --------------------------------------------------------------------------------------

def redis(rig, *options):
    port = free_port()
    rig.begin([program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
               "--enable-debug-command", "yes", *options])
    return port


def redis_command(*words):
    def act(rig):
        port = redis(rig)
        with connect(rig, port) as connection:
            connection.sendall((" ".join(words) + "\r\n").encode())
            try:
                connection.recv(100)
            except OSError:
                pass
        rig.over()
        return rig.verdict()
    return act


def redis_signal(number):
    def act(rig):
        port = redis(rig)
        connect(rig, port).close()
        os.kill(rig.pid(), number)
        rig.over()
        return rig.verdict()
    return act


def redis_bad_config(rig):
    rig.begin([program("redis-server"), "--port", "0", "--maxmemory-policy", "no-such-policy"])
    rig.over()
    return rig.verdict()


def redis_port_taken(rig):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        rig.begin([program("redis-server"), "--port", str(taken.getsockname()[1]), "--bind",
                   "127.0.0.1"])
        rig.over()
    return rig.verdict()


# ---- nginx --------------------------------------------------------------------------------------

def nginx(rig, port, extra="", workers="master_process on; worker_processes 1;"):
    config = os.path.join(rig.dir, "nginx.conf")
    os.chmod(rig.dir, 0o755)
    paths = "".join(f"{name}_temp_path {rig.dir}/{name};\n" for name in
                    ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with open(config, "w", encoding="utf-8") as file:
        file.write(f"daemon off; {workers} pid {rig.dir}/nginx.pid; error_log stderr notice;\n"
                   f"events {{ worker_connections 32; }}\nhttp {{ access_log off; {paths} {extra}\n"
                   f"server {{ listen 127.0.0.1:{port}; }} }}\n")
    rig.begin([program("nginx"), "-c", config, "-p", rig.dir, "-e", "stderr"])


def nginx_signal(number):
    def act(rig):
        port = free_port()
        nginx(rig, port)
        connect(rig, port).close()
        os.kill(rig.pid(), number)
        rig.over()
        return rig.verdict()
    return act


def nginx_bad_config(rig):
    nginx(rig, free_port(), extra="no_such_directive on;")
    rig.over()
    return rig.verdict()


def nginx_port_taken(rig):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        nginx(rig, taken.getsockname()[1])
        rig.over()
    return rig.verdict()


# ---- PostgreSQL ---------------------------------------------------------------------------------

def as_server_user():
    """PostgreSQL refuses root."""
    if os.getuid() != 0:
        return []
    user = next((name for name in ("postgres", "nobody")
                 if any(one.pw_name == name for one in pwd.getpwall())), None)
    one = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={one.pw_uid}", f"--regid={one.pw_gid}", "--clear-groups"]


def postgres(rig, *options):
    data = os.path.join(rig.dir, "data")
    os.chmod(rig.dir, 0o777)
    subprocess.run([*as_server_user(), program("initdb"), "-D", data, "--no-sync", "-A", "trust"],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   cwd=rig.dir)
    port = free_port()
    rig.begin([*as_server_user(), program("postgres"), "-D", data, "-p", str(port), "-k", rig.dir,
               "-h", "127.0.0.1", *options])
    return port


def postgres_ready(rig, port):
    connect(rig, port).close()
    rig.until(lambda: "ready to accept connections" in rig.text(), "PostgreSQL was not ready")


def postgres_signal(number):
    def act(rig):
        port = postgres(rig)
        postgres_ready(rig, port)
        os.kill(rig.pid(), number)
        rig.over()
        return rig.verdict()
    return act


def postgres_backend_crash(rig):
    """A process of it crashes, and it is told not to go on then."""
    port = postgres(rig, "-c", "restart_after_crash=off")
    postgres_ready(rig, port)
    pid = rig.pid()
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        children = [int(word) for word in file.read().split()]
    for child in children:
        with open(f"/proc/{child}/cmdline", encoding="utf-8", errors="replace") as file:
            if "walwriter" in file.read():
                os.kill(child, signal.SIGSEGV)
    rig.over()
    return rig.verdict()


def postgres_bad_setting(rig):
    postgres(rig, "-c", "shared_buffers=no-such-size")
    rig.over()
    return rig.verdict()


def postgres_no_data(rig):
    os.chmod(rig.dir, 0o777)
    rig.begin([*as_server_user(), program("postgres"), "-D", rig.dir + "/nothing"])
    rig.over()
    return rig.verdict()


R, N, P = ["redis-server"], ["nginx"], ["postgres", "initdb"]
# name, kind, command, cause, subtypes, evidence, act, needs
VICTIMS = [
    ("redis:segfault", "server", [], "segmentation_fault", None, r"", redis_command("DEBUG", "SEGFAULT"), R),
    ("redis:panic", "server", [], "abort", None, r"Guru Meditation", redis_command("DEBUG", "PANIC"), R),
    ("redis:assertion", "server", [], "assertion_failure", None, r"is not true", redis_command("DEBUG", "ASSERT"), R),
    ("redis:allocator", "server", [], "out_of_memory", "allocator", r"Out Of Memory", redis_command("DEBUG", "OOM"), R),
    ("redis:killed", "server", [], "killed_externally", "SIGKILL", "", redis_signal(signal.SIGKILL), R),
    ("redis:sent_segv", "server", [], "killed_externally", "SIGSEGV", r"sent by process [1-9]", redis_signal(signal.SIGSEGV), R),
    ("redis:bad_config", "server", [], "exit_failure", "exit_code_1", r"no-such-policy|argument", redis_bad_config, R),
    ("redis:port_taken", "server", [], "exit_failure", "exit_code_1", r"[Aa]ddress already in use", redis_port_taken, R),
    ("nginx:killed", "server", [], "killed_externally", "SIGKILL", "", nginx_signal(signal.SIGKILL), N),
    ("nginx:sent_segv", "server", [], "killed_externally", "SIGSEGV", r"sent by process [1-9]", nginx_signal(signal.SIGSEGV), N),
    ("nginx:bad_config", "server", [], "exit_failure", "exit_code_1", r"unknown directive", nginx_bad_config, N),
    ("nginx:port_taken", "server", [], "exit_failure", "exit_code_1", r"Address already in use", nginx_port_taken, N),
    ("postgres:killed", "server", [], "killed_externally", "SIGKILL", "", postgres_signal(signal.SIGKILL), P),
    ("postgres:sent_abrt", "server", [], "killed_externally", "SIGABRT", r"sent by process [1-9]", postgres_signal(signal.SIGABRT), P),
    ("postgres:child_crash", "server", [], "segmentation_fault", "child_process", r"terminated by signal 11", postgres_backend_crash, P),
    ("postgres:bad_setting", "server", [], "exit_failure", "exit_code_1", r"invalid value", postgres_bad_setting, P),
    ("postgres:no_data", "server", [], "exit_failure", "exit_code_2", r"does not exist|no such", postgres_no_data, P),
]
