"""The tools that are compared, each set up as a careful user would on equal terms; see README.md."""

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

from cluster import Failure, Session
from measure import stored_bytes

FULL, INCREMENTAL = "full", "incr"
SEGMENT_TIMEOUT_SECONDS = 120
# What a copy of a running cluster's files leaves out, by PostgreSQL's documentation of low-level backups.
EXCLUDED = [
    "pg_wal/*", "pg_replslot/*", "pg_dynshmem/*", "pg_notify/*", "pg_serial/*", "pg_snapshots/*", "pg_stat_tmp/*",
    "pg_subtrans/*", "postmaster.pid", "postmaster.opts", "pgsql_tmp*", "pg_internal.init",
]


class NotApplicable(Exception):
    """The tool has no such operation; says why."""


class Setting:
    """What all tools are given."""

    def __init__(self, cluster, workers, level, lifeboat):
        self.cluster = cluster
        self.runner = cluster.runner
        self.workers = workers
        self.level = level
        self.lifeboat = lifeboat


class Tool:
    """One tool with a fresh repository below `directory`."""

    name = ""
    note = ""
    # Where in the repository the log lies; None where it lies beside the repository.
    log = None

    def __init__(self, setting, directory):
        self.setting = setting
        self.runner = setting.runner
        self.cluster = setting.cluster
        self.directory = directory
        self.repository = directory / "repository"
        self.remarks = []
        self.pushed = set()
        self.runner.run(["mkdir", "-p", self.repository])

    def prepare(self):
        """Makes the repository; not measured."""

    def stored_bytes(self):
        """Bytes in the repository, and those of them that are log."""
        log_bytes = stored_bytes(self.repository / self.log) if self.log else 0
        return stored_bytes(self.repository), log_bytes

    def write(self, name, text):
        """A file of the tool's own, readable by the cluster's user alone."""
        path = self.directory / name
        self.runner.run(["sh", "-c", 'umask 077; cat > "$0"', path], stdin=text)
        return path

    def push_command(self):
        """Words that archive the segment whose path is appended."""
        raise NotApplicable("has no command that archives a segment")

    def push_all(self, paths):
        """One process after another, as PostgreSQL's archiver does it, each started by the same shell."""
        self._push_all(self.push_command(), paths)

    def _push_all(self, command, paths):
        script = f'while read -r segment; do {shlex.join(map(str, command))} "$segment" || exit; done'
        self.runner.run(["sh", "-c", script], stdin="".join(f"{path}\n" for path in paths))

    def backup(self, kind):
        """Takes a backup of this kind."""
        raise NotImplementedError

    def restore(self, target, delta):
        """Restores the newest backup, to the moment it ended. `delta`: the directory holds it already."""
        raise NotImplementedError


class Lifeboat(Tool):
    """Ours."""

    name = "lifeboat"
    log = "bench/log"
    note = "age encryption, signed, page checksums verified"

    def prepare(self):
        state = f'state_dir = "{self.directory}/state"\n'
        repository = f'[repository.main]\nurl = "file://{self.repository}"\n'
        source = (
            '[source.bench]\nkind = "postgres"\n'
            f'conninfo = "host={self.cluster.socket} user=postgres dbname=postgres"\n'
            f"[backup]\nworkers = {self.setting.workers}\ncompression_level = {self.setting.level}\n"
        )
        draft = self.write("draft.toml", state + repository + source)
        keys = self.directory / "keys"
        answer = self._run(draft, "init", "--generate-keys", keys)
        made = state + answer["configuration"]
        self.config = self.write("lifeboat.toml", made + source)
        identity = f'[encryption]\nidentity_file = "{keys}/identity.age"\n'
        self.restore_config = self.write("restore.toml", made.replace("[encryption]\n", identity) + source)

        self.knows_delta = "--delta" in self.runner.run([self.setting.lifeboat, "restore", "--help"])

    def _run(self, config, *words):
        options = ["--config", config, "--quiet", "--output", "json"]
        return json.loads(self.runner.run([self.setting.lifeboat, *options, *words]))

    @classmethod
    def version(cls, setting):
        return setting.runner.run([setting.lifeboat, "--version"]).split()[-1]

    def push_command(self):
        return [self.setting.lifeboat, "--config", self.config, "--quiet", "archive", "push", "bench"]

    def backup(self, kind):
        taken = self._run(self.config, "backup", "bench", "--type", kind)["backups"][0]
        if taken["type"] != kind:
            self.remarks.append(f"took a {taken['type']} instead: {taken['reason']}")
        self.remarks += taken["warnings"]

    def restore(self, target, delta):
        words = ["restore", "bench", "--into", target, "--to-immediate", "--clone"]
        if delta:
            if not self.knows_delta:
                raise NotApplicable("this build does not know restore --delta")
            words.append("--delta")
        self._run(self.restore_config, *words)


def link_segments(tool, paths):
    """A data directory of links that stands for the server's, with `.ready` files, where background processes look."""
    data = tool.directory / "data"
    tool.runner.run(["mkdir", "-p", data / "pg_wal/archive_status", data / "global"])
    os.link(tool.cluster.data / "global/pg_control", data / "global/pg_control")
    os.link(tool.cluster.data / "PG_VERSION", data / "PG_VERSION")
    links = []
    for path in paths:
        links.append(data / "pg_wal" / path.name)
        os.link(path, links[-1])
        tool.runner.run(["touch", data / f"pg_wal/archive_status/{path.name}.ready"])
    return links


class LifeboatRun(Lifeboat):
    """With `lifeboat run` beside it, which stores ahead of PostgreSQL's requests."""

    name = "lifeboat run"
    note = "lifeboat run beside it, its start and end counted: it stores whatever waits"
    POLICY = '[objectives]\nrto = "1h"\nrpo = "1h"\n'

    def prepare(self):
        super().prepare()
        policy = self.write("policy.toml", self.POLICY)
        text = self.config.read_text().replace('kind = "postgres"', f'kind = "postgres"\npolicy = "{policy}"')
        self.config = self.write("lifeboat.toml", text)

    def link(self, paths):
        return link_segments(self, paths)

    def push_all(self, paths):
        socket = self.directory / "state/push-bench.sock"
        words = [self.setting.lifeboat, "--config", self.config, "run"]
        with self.runner.spawn(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as beside:
            try:
                while not socket.exists():
                    if beside.poll() is not None:
                        raise Failure(f"lifeboat run ended: {beside.stderr.read().decode(errors='replace')[-500:]}")
                    time.sleep(0.005)
                super().push_all(paths)
            finally:
                beside.terminate()


class Pgbackrest(Tool):
    """Debian's pgBackRest with its own best settings for this."""

    name = "pgbackrest"
    log = "archive"
    note = "aes-256-cbc, zst, bundling on, page checksums verified; incrementals copy whole files (1 GiB at most)"
    package = "pgbackrest"

    def prepare(self):
        config = (
            "[global]\n"
            f"repo1-path={self.repository}\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=correct-horse-battery-staple\n"
            f"repo1-bundle=y\ncompress-type=zst\ncompress-level={self.setting.level}\nprocess-max={self.setting.workers}\n"
            "start-fast=y\nexpire-auto=n\nlog-level-file=off\nlog-level-console=off\nlog-level-stderr=error\n"
            f"lock-path={self.directory}/lock\nlog-path={self.directory}/log\nspool-path={self.directory}/spool\n"
            f"[bench]\npg1-path={self.cluster.data}\npg1-socket-path={self.cluster.socket}\n"
        )
        self.config = self.write("pgbackrest.conf", config)
        options = [f"--config={self.config}", f"--config-include-path={self.directory}/empty", "--stanza=bench"]
        self.command = ["pgbackrest", *options]
        self.runner.run(["mkdir", "-p", *(self.directory / name for name in ("lock", "log", "spool", "empty"))])
        self.runner.run([*self.command, "stanza-create"])

    @classmethod
    def version(cls, setting):
        return setting.runner.run(["pgbackrest", "version"]).split()[-1]

    def push_command(self):
        return [*self.command, "archive-push"]

    def backup(self, kind):
        self.runner.run([*self.command, f"--type={kind}", "backup"])

    def restore(self, target, delta):
        self.runner.run(["mkdir", "-p", "-m", "700", target])
        options = [f"--pg1-path={target}", "--type=immediate", "--target-action=promote", "--archive-mode=off"]
        self.runner.run([*self.command, *options, *(["--delta"] if delta else []), "restore"])


class PgbackrestAsync(Pgbackrest):
    """Its archiving in the background, ahead of PostgreSQL's requests."""

    name = "pgbackrest async"
    note = "archive-async=y: one background process pushes whatever waits, with process-max workers"

    def link(self, paths):
        links = link_segments(self, paths)
        data = self.directory / "data"
        self.command += [f"--pg1-path={data}", "--archive-async"]
        return links


class FileTool(Tool):
    """A tool that only knows files: what a script around it has to do, by PostgreSQL's documentation.

    pg_backup_start, copy, pg_backup_stop, then the label and the log between the two. Segments are archived with `cp`.
    """

    def __init__(self, setting, directory):
        super().__init__(setting, directory)
        self.archive = directory / "archive"
        self.extras = directory / "extras"
        self.runner.run(["mkdir", "-p", self.archive, self.extras])

    def push_command(self):
        new = f"{self.archive}/.new"
        return ["sh", "-c", f'cp "$0" {new} && sync {new} && mv {new} {self.archive}/"${{0##*/}}"']

    def push_all(self, paths):
        raise NotApplicable("archives no segments; a script would copy them and back the directory up")

    def copy_data(self, kind):
        """Stores the data directory."""
        raise NotImplementedError

    def copy_extras(self):
        """Stores what lies in `extras`."""
        raise NotImplementedError

    def fetch(self, target, extras):
        """Brings both back."""
        raise NotImplementedError

    def backup(self, kind):
        session = Session(self.cluster)
        try:
            started = session.ask("SELECT pg_walfile_name(pg_backup_start('bench', true))")[0]
            self.copy_data(kind)
            stopped, *label = session.ask("SELECT pg_walfile_name(lsn) || E'\\n' || labelfile FROM pg_backup_stop(false)")
            self._collect_extras(started, stopped, label)
            self.copy_extras()
            self.runner.run(["sync", "-f", self.repository])
        finally:
            session.close()

    def _collect_extras(self, started, stopped, label):
        deadline = time.monotonic() + SEGMENT_TIMEOUT_SECONDS
        while not (self.archive / stopped).exists():
            if time.monotonic() > deadline:
                raise Failure(f"{stopped} was not archived within {SEGMENT_TIMEOUT_SECONDS} s")
            time.sleep(0.01)
        needed = sorted(name for name in os.listdir(self.archive) if started <= name <= stopped)
        script = 'cd "$0" && rm -rf wal && mkdir wal && cat > backup_label && ln "$@" wal/'
        paths = [self.archive / name for name in needed]
        self.runner.run(["sh", "-c", script, self.extras, *paths], stdin="\n".join(label) + "\n")

    def restore(self, target, delta):
        if delta:
            raise NotApplicable(self.no_delta)
        extras = self.directory / "restored-extras"
        self.runner.run(["mkdir", "-p", "-m", "700", target, extras])
        self.fetch(target, extras)
        settings = (
            f"restore_command = 'cp {extras}/wal/%f \"%p\"'\nrecovery_target = 'immediate'\n"
            "recovery_target_action = 'promote'\n"
        )
        script = 'cd "$0" && chmod 700 . && mv "$1/backup_label" . && touch recovery.signal && cat >> postgresql.auto.conf'
        self.runner.run(["sh", "-c", script, target, extras], stdin=settings)
        self.runner.run(["sync", "-f", target])


class Restic(FileTool):
    """Debian's restic between pg_backup_start and pg_backup_stop."""

    name = "restic"
    note = "encrypted, compression auto (its own zstd level), GOMAXPROCS = workers, page checksums not looked at"
    package = "restic"

    def prepare(self):
        self.environment = {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD_FILE": str(self.write("password", "correct-horse-battery-staple\n")),
            "RESTIC_CACHE_DIR": str(self.directory / "cache"),
            "GOMAXPROCS": str(self.setting.workers),
        }
        self._run("init")

    def _run(self, *words, cwd=None):
        return self.runner.run(["restic", "--quiet", *words], env=self.environment, cwd=cwd)

    @classmethod
    def version(cls, setting):
        return setting.runner.run(["restic", "version"]).split()[1]

    def copy_data(self, kind):
        excludes = [f"--exclude={pattern}" for pattern in EXCLUDED]
        force = ["--force"] if kind == FULL else []
        self._run("backup", "--tag", "data", *force, *excludes, ".", cwd=self.cluster.data)

    def copy_extras(self):
        self._run("backup", "--tag", "extras", ".", cwd=self.extras)

    def fetch(self, target, extras):
        self._run("restore", "latest", "--tag", "data", "--target", target)
        self._run("restore", "latest", "--tag", "extras", "--target", extras)

    no_delta = "Debian's restic rewrites every file"


class Zstd(FileTool):
    """The floor: no encryption, no checks, nothing but the compressor over the same files."""

    name = "zstd"
    note = "tar | zstd -T(workers) into one file: not encrypted, nothing verified; the floor, not an alternative"
    no_delta = "an archive has no delta restore"
    package = "zstd"

    @classmethod
    def version(cls, setting):
        return re.search(r"v([\d.]+)", setting.runner.run(["zstd", "--version"])).group(1)

    def _pipe(self, script, *arguments):
        self.runner.run(["bash", "-c", f"set -euo pipefail; {script}", *map(str, arguments)])

    def _pack(self, source, name, *options):
        script = 'tar -C "$0" --warning=no-file-changed -cf - "${@:4}" . | zstd -q -f "-T$1" "-$2" -o "$3"'
        self._pipe(script, source, self.setting.workers, self.setting.level, self.repository / name, *options)

    def copy_data(self, kind):
        if kind != FULL:
            raise NotApplicable("an archive has no incremental")
        self._pack(self.cluster.data, "data.tar.zst", *(f"--exclude={pattern}" for pattern in EXCLUDED))

    def copy_extras(self):
        self._pack(self.extras, "extras.tar.zst")

    def fetch(self, target, extras):
        for name, place in (("data.tar.zst", target), ("extras.tar.zst", extras)):
            self._pipe('zstd -q -d -c "$0" | tar -C "$1" -xf -', self.repository / name, place)

    def push_all(self, paths):
        script = f'while read -r path; do zstd -q -{self.setting.level} "$path" -o "$0/${{path##*/}}.zst" || exit; done'
        self.runner.run(["sh", "-c", script, self.repository], stdin="".join(f"{path}\n" for path in paths))


TOOLS = {tool.name: tool for tool in (Lifeboat, Pgbackrest, Restic, Zstd)}
