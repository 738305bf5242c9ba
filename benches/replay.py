"""Replay of the same log by the same restored cluster, its segments brought to it in one way or another."""

import shutil

from cluster import Cluster
from measure import warm

SEGMENT_BITS = 24


def start_of(segment):
    """The position at which a segment of 16 MiB begins, as PostgreSQL writes it."""
    return f"{int(segment[8:16], 16):X}/{int(segment[16:24], 16) << SEGMENT_BITS:X}"


class Replay:
    """A cluster restored from `lifeboat`'s newest backup, which replays the log up to the start of `last`."""

    def __init__(self, bench, lifeboat, directory, last):
        self.bench = bench
        self.directory = directory
        self.last = last
        self.base = directory / "replay-base"
        lifeboat.restore(self.base, False)
        # The target is another here, and a server takes one only.
        bench.runner.run(["sed", "-i", "/^recovery_target/d", self.base / "postgresql.auto.conf"])
        self.archive = directory / "replay-archive"
        wal = bench.cluster.data / "pg_wal"
        names = [name for name in bench.cluster.finished_segments() if name <= last]
        bench.runner.run(["sh", "-c", 'mkdir "$0" && ln "$@" "$0/"', self.archive, *(wal / name for name in names)])

    def ways(self, tools):
        """The name of each way, with its restore_command (None: the one that the restore wrote)."""
        yield "lifeboat", lambda _: None
        yield "cp", lambda _: f'cp {self.archive}/%f "%p"'
        yield "in pg_wal", lambda _: "false"
        if "pgbackrest" in tools:
            spool = self.directory / "replay-spool"
            words = " ".join(map(str, tools["pgbackrest"].command))
            yield "pgbackrest async", lambda data: (
                f'{words} --pg1-path={data} --archive-async --spool-path={spool} archive-get %f "%p"')

    def prepare(self, name):
        """A fresh copy of the restored directory."""
        data = self.directory / f"replay-{name.replace(' ', '-')}"
        self.bench.runner.run(["cp", "-a", "--reflink=auto", self.base, data])
        if name == "in pg_wal":
            # Copies: a server recycles what lies there.
            self.bench.runner.run(["sh", "-c", 'cp "$0"/* "$1/pg_wal/"', self.archive, data])
        warm(data)
        warm(self.archive)
        return data

    def run(self, data, command):
        """Starts the server and waits until it has replayed everything and shut itself down."""
        settings = [
            "archive_mode=off", "hot_standby=off", f"recovery_target_lsn={start_of(self.last)}",
            "recovery_target_timeline=1", "recovery_target_action=shutdown", "max_wal_size=32GB",
        ]
        server = Cluster(self.bench.runner, self.bench.programs, data, self.directory)
        self.bench.servers.append(server)
        try:
            server.replay(*settings, *([] if command is None else [f"restore_command={command}"]))
        finally:
            server.stop()
            self.bench.servers.remove(server)

    def remove(self, data):
        shutil.rmtree(data)
