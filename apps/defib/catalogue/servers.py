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


# name, cause, subtypes, evidence, act
CASES = [
    ("redis:segfault", "segmentation_fault", None, "", redis_command("DEBUG", "SEGFAULT")),
    ("redis:panic", "abort", None, r"Guru Meditation", redis_command("DEBUG", "PANIC")),
    ("redis:assertion", "assertion_failure", None, r"is not true",
     redis_command("DEBUG", "ASSERT")),
    ("redis:allocator", "out_of_memory", "allocator", r"Out Of Memory",
     redis_command("DEBUG", "OOM")),
    ("redis:killed", "killed_externally", "SIGKILL", "", redis_signal(signal.SIGKILL)),
    ("redis:sent_segv", "killed_externally", "SIGSEGV", r"sent by process [1-9]",
     redis_signal(signal.SIGSEGV)),
    ("redis:bad_config", "exit_failure", "exit_code_1", r"no-such-policy|argument",
     redis_bad_config),
    ("redis:port_taken", "exit_failure", "exit_code_1", r"[Aa]ddress already in use",
     redis_port_taken),
    ("nginx:killed", "killed_externally", "SIGKILL", "", nginx_signal(signal.SIGKILL)),
    ("nginx:sent_segv", "killed_externally", "SIGSEGV", r"sent by process [1-9]",
     nginx_signal(signal.SIGSEGV)),
    ("nginx:bad_config", "exit_failure", "exit_code_1", r"unknown directive", nginx_bad_config),
    ("nginx:port_taken", "exit_failure", "exit_code_1", r"Address already in use",
     nginx_port_taken),
    ("postgres:killed", "killed_externally", "SIGKILL", "", postgres_signal(signal.SIGKILL)),
    ("postgres:sent_abrt", "killed_externally", "SIGABRT", r"sent by process [1-9]",
     postgres_signal(signal.SIGABRT)),
    ("postgres:child_crash", "segmentation_fault", "child_process", r"terminated by signal 11",
     postgres_backend_crash),
    ("postgres:bad_setting", "exit_failure", "exit_code_1", r"invalid value",
     postgres_bad_setting),
    ("postgres:no_data", "exit_failure", "exit_code_2", r"No such file", postgres_no_data),
]
NEEDS = {"redis": ["redis-server"], "nginx": ["nginx"],
         "postgres": ["postgres", "initdb", "setpriv"]}
