"""A private PostgreSQL cluster: unix socket only, below one directory, ended by its process id."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

READY_TIMEOUT_SECONDS = 120
RECOVERY_TIMEOUT_SECONDS = 900
ARCHIVE_TIMEOUT_SECONDS = 600
SEGMENT_NAME = re.compile(r"[0-9A-F]{24}")

# Checkpoints only when asked for, no vacuum on its own: between the tools nothing may change. No segment is recycled,
# so that each tool can be given every segment when its turn comes.
SETTINGS = """
listen_addresses = ''
shared_buffers = 512MB
wal_level = replica
archive_mode = on
wal_keep_size = 1TB
max_wal_size = 32GB
checkpoint_timeout = 1d
autovacuum = off
bgwriter_lru_maxpages = 0
max_connections = 30
logging_collector = off
log_checkpoints = off
"""

TABLES = """
SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'r' AND nspname !~ '^(pg_|information_schema)' ORDER BY 1
"""


class Failure(Exception):
    """A program that a step needs did not do its work."""


class Runner:
    """Starts programs as the user that owns the cluster."""

    def __init__(self, user):
        self.identity = {} if user is None else {"user": user, "group": user, "extra_groups": []}

    def spawn(self, argv, env=None, **options):
        """A process; `env` is added to a small environment of ours."""
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/nonexistent", **(env or {})}
        return subprocess.Popen([str(word) for word in argv], env=environment, **self.identity, **options)

    def run(self, argv, env=None, cwd=None, stdin=None):
        """Runs a program to its end and returns what it printed.

        Raises Failure with its last words when it fails.
        """
        with self.spawn(argv, env, cwd=cwd, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            out, err = process.communicate(stdin)
        if process.returncode != 0:
            words = " | ".join((err.strip() or out.strip() or "no message").splitlines()[-6:])
            raise Failure(f"{Path(str(argv[0])).name} ended with {process.returncode}: {words}")
        return out

    def pipe(self, argv, lines):
        """Runs a program and writes `lines` (bytes) to it, as many as there are."""
        with self.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            for line in lines:
                process.stdin.write(line)
            process.stdin.close()
            if process.wait() != 0:
                raise Failure(f"{Path(str(argv[0])).name} ended with {process.returncode}")


class Session:
    """A connection that stays open, for what PostgreSQL ties to one: pg_backup_start and pg_backup_stop."""

    END = "--end of answer--"

    def __init__(self, cluster):
        argv = cluster.psql("-v", "ON_ERROR_STOP=1")
        self.process = cluster.runner.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, statement):
        """The answer's lines."""
        self.process.stdin.write(f"{statement};\n\\echo {self.END}\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line.rstrip("\n") == self.END:
                return lines
            lines.append(line.rstrip("\n"))
        raise Failure(f"the session ended at: {statement}")

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Cluster:
    """A data directory and, between start and stop, its server."""

    def __init__(self, runner, programs, data, scratch):
        self.runner = runner
        self.programs = programs
        self.data = data
        self.socket = scratch / f"{data.name}.socket"
        self.log = scratch / f"{data.name}.log"
        self.process = None
        self.archiver_pid = None

    def create(self, archive_command):
        """initdb with data checksums; archives with `archive_command`."""
        self.runner.run([self.programs / "initdb", "--data-checksums", "--auth=trust", "--username=postgres",
                         "--encoding=UTF8", "--locale=C.UTF-8", "--pgdata", self.data])
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as config:
            config.write(f"{SETTINGS}unix_socket_directories = '{self.socket}'\narchive_command = '{archive_command}'\n")

    def start(self, *overrides):
        """Starts the server and waits until it is read-write; `overrides` win over its configuration files."""
        self._launch(overrides)
        self._wait_until_writable()

    def replay(self, *overrides):
        """Starts the server and waits until it has reached its recovery target and shut itself down.

        Raises Failure when it ends without having got there.
        """
        self._launch(overrides)
        self.process.wait(timeout=RECOVERY_TIMEOUT_SECONDS)
        log = self.log.read_text(errors="replace")
        if "recovery stopping" not in log:
            raise Failure(f"the server on {self.data.name} did not reach its target: {log[-500:]}")

    def _launch(self, overrides):
        self.runner.run(["mkdir", "-p", self.socket])
        argv = [self.programs / "postgres", "-D", self.data, "-k", self.socket, "-c", "listen_addresses="]
        for setting in overrides:
            argv += ["-c", setting]
        with open(self.log, "ab") as log:
            self.process = self.runner.spawn(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait_until_writable(self):
        deadline = time.monotonic() + RECOVERY_TIMEOUT_SECONDS
        while True:
            if self.process.poll() is not None:
                lines = self.log.read_text(errors="replace").splitlines()
                fatal = [line for line in lines if "FATAL" in line or "PANIC" in line] or lines
                raise Failure(f"the server on {self.data.name} ended: {fatal[-1] if fatal else 'without a word'}")
            try:
                if self.sql("SELECT pg_is_in_recovery()") == "f":
                    return
            except Failure:
                pass
            if time.monotonic() > deadline:
                raise Failure(f"the server on {self.data.name} is not ready after {RECOVERY_TIMEOUT_SECONDS} s")
            time.sleep(0.05)

    def stop(self, how=signal.SIGINT):
        """Ends the server, if one runs."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout=READY_TIMEOUT_SECONDS)
        self.process = None

    def find_archiver(self):
        """Remembers the process whose children are the archive commands."""
        pid = self.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'")
        if not pid:
            raise Failure("the server has no archiver")
        self.archiver_pid = int(pid)

    def psql(self, *options):
        return ["psql", "-XAtq", "-h", self.socket, "-U", "postgres", "-d", "postgres", *options]

    def sql(self, *statements):
        """Runs statements, each on its own, and returns what they answer."""
        options = [word for statement in statements for word in ("-c", statement)]
        return self.runner.run(self.psql("-v", "ON_ERROR_STOP=1", *options)).strip()

    def contents(self):
        """Count and checksum of every table, by name."""
        answer = {}
        for table in self.sql(TABLES).splitlines():
            answer[table] = self.sql(f"SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {table} t")
        return answer

    def current_segment(self):
        return self.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")

    def finished_segments(self):
        """Names of the segments that the archiver is done with, in order."""
        done = (name[:-5] for name in os.listdir(self.data / "pg_wal/archive_status") if name.endswith(".done"))
        return sorted(name for name in done if SEGMENT_NAME.fullmatch(name))

    def wait_until_archived(self):
        """Waits until nothing is left for the archiver."""
        deadline = time.monotonic() + ARCHIVE_TIMEOUT_SECONDS
        while any(name.endswith(".ready") for name in os.listdir(self.data / "pg_wal/archive_status")):
            if time.monotonic() > deadline:
                raise Failure(f"segments wait for the archiver: {self.log.read_text(errors='replace')[-500:]}")
            time.sleep(0.02)
