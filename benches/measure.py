"""What a step costs: wall clock, CPU of every process it needed, and their memory together at its peak."""

import ctypes
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.015
# Reading a process's memory stops it for a moment: no more than one part in this many of the time goes into it.
SAMPLE_REST = 19
ORPHAN_TIMEOUT_SECONDS = 60
PR_SET_CHILD_SUBREAPER = 36
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0))


@dataclass
class Cost:
    """What one step took. `others_percent` is the part of the machine that processes beside it used meanwhile."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    others_percent: float


def adopt_orphans():
    """Makes this process the parent of whatever its descendants leave behind, so that it can be counted and ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children_of(pid):
    """Process ids of the direct children; none when the process is gone."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def descendants_of(pid, ignored):
    """Process ids of all descendants, without those in `ignored` and what is below them."""
    found = []
    waiting = [child for child in children_of(pid) if child not in ignored]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children_of(pid)
    return found


def waited_children_seconds(pid):
    """CPU seconds of the children that process `pid` has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS_PER_SECOND


def own_children_seconds():
    times = os.times()
    return times.children_user + times.children_system


def busy_seconds():
    """CPU seconds that the whole machine has spent on work since it started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / TICKS_PER_SECOND


def wait_until_idle(seconds, busy_percent):
    """Waits, at most so long, for one second in which less than this part of the machine is used."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = busy_seconds()
        time.sleep(1)
        if 100 * (busy_seconds() - before) / CORES < busy_percent:
            return


def proportional_bytes(pid, not_counted):
    """Memory of a process, pages shared with others counted in proportion; 0 between its fork and its exec."""
    try:
        if os.readlink(f"/proc/{pid}/exe") in not_counted:
            return 0
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Meter:
    """Counts everything that runs between `with` and its end as descendants of this process or of the archiver.

    `ignored` are children of this process that do not belong to the step: the server and sessions.
    `archiver_pid` is PostgreSQL's archiver, whose children (not itself) belong to it; None where there is no server.
    """

    def __init__(self, ignored, archiver_pid):
        self.ignored = set(ignored)
        self.archiver_pid = archiver_pid
        self.cost = None
        self._peak_bytes = 0
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._not_counted = {os.readlink(f"/proc/{pid}/exe") for pid in (os.getpid(), archiver_pid) if pid}

    def __enter__(self):
        self._cpu_before = self._cpu_seconds()
        self._busy_before = busy_seconds()
        self._own_before = time.process_time()
        self._began = time.monotonic()
        self._sampler.start()
        return self

    def __exit__(self, kind, value, trace):
        wall = time.monotonic() - self._began
        self._stop.set()
        self._sampler.join()
        self._reap_orphans()
        busy, own = busy_seconds() - self._busy_before, time.process_time() - self._own_before
        cpu = self._cpu_seconds() - self._cpu_before
        others = max(0.0, busy - cpu - own) / (CORES * max(wall, 0.1))
        self.cost = Cost(wall, cpu, self._peak_bytes, min(100.0, 100 * others))

    def _cpu_seconds(self):
        archived = waited_children_seconds(self.archiver_pid) if self.archiver_pid else 0
        return own_children_seconds() + archived

    def _sample(self):
        while True:
            began = time.monotonic()
            archiving = descendants_of(self.archiver_pid, ()) if self.archiver_pid else []
            pids = descendants_of(os.getpid(), self.ignored) + archiving
            self._peak_bytes = max(self._peak_bytes, sum(proportional_bytes(pid, self._not_counted) for pid in pids))
            spent = time.monotonic() - began
            if self._stop.wait(max(SAMPLE_SECONDS, SAMPLE_REST * spent)):
                return

    def _reap_orphans(self):
        """What went into the background (pgBackRest's asynchronous archiving) counts too, once it has ended."""
        deadline = time.monotonic() + ORPHAN_TIMEOUT_SECONDS
        for pid in set(children_of(os.getpid())) - self.ignored:
            while os.waitpid(pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"process {pid} still runs {ORPHAN_TIMEOUT_SECONDS} s after the step ended")
                time.sleep(0.01)


def stored_bytes(directory):
    """Sum of the lengths of all files below a directory; 0 when there is none."""
    total = 0
    for parent, _, files in os.walk(directory):
        total += sum(os.lstat(os.path.join(parent, file)).st_size for file in files)
    return total


def warm(directory):
    """Reads every file below a directory once, so that each tool finds it in the page cache."""
    buffer = bytearray(1 << 20)
    for parent, _, files in os.walk(directory):
        for file in files:
            try:
                with open(os.path.join(parent, file), "rb", buffering=0) as source:
                    while source.readinto(buffer):
                        pass
            except (FileNotFoundError, OSError):
                continue
