"""What must be there before anything is measured: packages, a server, a user, a build."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

from cluster import Failure
from measure import children_of

ROOT = Path(__file__).resolve().parent.parent
OLDEST_MAJOR = 15
END_TIMEOUT_SECONDS = 20


def cluster_user():
    """Whom the cluster belongs to: the user `postgres` when started by root, whom PostgreSQL refuses; else None."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pass
    install_packages(["postgresql"])
    return "postgres"


def install(tools):
    """Debian's packages of what is missing.

    Raises Failure with the command to type when they cannot be installed.
    """
    needed = {"pgbackrest": "pgbackrest", "restic": "restic", "zstd": "zstd"}
    missing = [package for tool, package in needed.items() if tool in {*tools, "zstd"} and not shutil.which(package)]
    if not installed_servers():
        missing.append("postgresql")
    if missing:
        install_packages(missing)


def install_packages(packages):
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failure(f"not installed: {' '.join(packages)}\n  hint: as root: {' '.join(command)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "-qq", "update"], command):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")


def installed_servers():
    """Directories with all the programs that are needed, oldest major first."""
    major = lambda path: int(path.parent.name)
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("[0-9]*/bin/pgbench")]
    return sorted((path for path in found if (path / "postgres").exists() and major(path) >= OLDEST_MAJOR), key=major)


def server_programs():
    """Where the newest installed server's programs are."""
    if not installed_servers():
        raise Failure(f"no PostgreSQL {OLDEST_MAJOR} or newer below /usr/lib/postgresql\n  hint: apt-get install postgresql")
    return installed_servers()[-1]


def build():
    """Builds Lifeboat in release, and returns where it is."""
    if subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=False).returncode != 0:
        raise Failure("cargo build --release failed")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release/lifeboat"


def hand_over(directory, user):
    """Makes a directory the cluster's user's own."""
    directory.chmod(0o755)
    if user:
        entry = pwd.getpwnam(user)
        os.chown(directory, entry.pw_uid, entry.pw_gid)


def end_children():
    """Ends and reaps every process that this one started, directly or not, and that still runs."""
    deadline = time.monotonic() + END_TIMEOUT_SECONDS
    while children := children_of(os.getpid()):
        how = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        for pid in children:
            try:
                os.kill(pid, how)
                os.waitpid(pid, os.WNOHANG)
            except (ProcessLookupError, ChildProcessError):
                continue
        time.sleep(0.05)
