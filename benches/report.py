"""The results as tables for people, and as Markdown for the README."""

import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
# Where others use more of the machine than this, wall times are said to be noisy.
BUSY_PERCENT = 15
OURS, PEER = "lifeboat", "pgbackrest"
FIELDS = ("wall_seconds", "cpu_seconds", "peak_bytes", "stored_bytes", "log_bytes")
COMPARED = ("wall_seconds", "cpu_seconds", "peak_bytes", "stored_bytes", "backup_bytes")


@dataclass
class Result:
    """One tool's step. `status`: ok, n/a, failed or wrong; only when ok do its numbers count."""

    status: str
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: float = 0
    stored_bytes: float | None = None
    log_bytes: float | None = None
    others_percent: float = 0.0
    remarks: list = field(default_factory=list)

    @property
    def backup_bytes(self):
        """What was stored beside the log."""
        return None if self.stored_bytes is None else self.stored_bytes - self.log_bytes


def median(results):
    """Of one step and tool over the rounds; a round that was not right decides."""
    bad = [result for result in results if result.status != "ok"]
    if bad:
        return bad[0]
    middle = Result("ok", remarks=results[-1].remarks)
    for name in (*FIELDS, "others_percent"):
        values = [getattr(result, name) for result in results]
        setattr(middle, name, None if None in values else statistics.median(values))
    return middle


def machine(directory):
    """What the numbers were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    memory_bytes = int(Path("/proc/meminfo").read_text().split("\n", 1)[0].split()[1]) * 1024
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    below = [mount for mount in mounts if os.path.commonpath([mount[1], str(directory)]) == mount[1]]
    device, _, file_system = max(below, key=lambda mount: len(mount[1]))
    return {
        "cpu": models[0] if models else platform.machine(), "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / (1 << 30), 1), "disk": f"{file_system} on {device}", "kernel": platform.release(),
    }


def seconds(value):
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def mebibytes(value):
    return "" if value is None else f"{value / MIB:.1f}" if value < 100 * MIB else f"{value / MIB:.0f}"


def remarks_of(steps, results):
    """Every different remark once, in the order of the table: they are numbered from 1."""
    remarks = (remark for key, _ in steps for result in results[key].values() for remark in result.remarks)
    return list(dict.fromkeys(remarks))


def numbers_of(remarks, known):
    return " ".join(f"({known.index(remark) + 1})" for remark in remarks)


def main_rows(steps, results):
    """Step by step, tool by tool."""
    yield ["step", "tool", "wall s", "CPU s", "peak MiB", "stored MiB", "of it log", "others %", "remark"]
    known = remarks_of(steps, results)
    for key, title in steps:
        for tool, result in results[key].items():
            remark = numbers_of(result.remarks, known)
            if result.status == "ok":
                cells = [seconds(result.wall_seconds), seconds(result.cpu_seconds), mebibytes(result.peak_bytes),
                         mebibytes(result.stored_bytes), mebibytes(result.log_bytes), f"{result.others_percent:.0f}"]
            else:
                cells = [result.status if result.status == "n/a" else result.status.upper(), "", "", "", "", ""]
            yield [title, tool, *cells, remark]
            title = ""


def ratio(ours, theirs, name):
    if ours.status != "ok" or theirs is None or theirs.status != "ok":
        return "n/a"
    mine, other = getattr(ours, name), getattr(theirs, name)
    return "n/a" if not mine or not other else f"{mine / other:.2f}"


def ratio_rows(steps, results):
    """Ours divided by theirs; below 1 is less time, memory or room for us."""
    others = [tool for tool in ("restic", "zstd") if any(tool in row for row in results.values())]
    yield [f"{OURS} ÷ {PEER}", "wall", "CPU", "peak", "stored", "without log", *(f"wall ÷ {tool}" for tool in others)]
    known = remarks_of(steps, results)
    for key, title in steps:
        row = results[key]
        if OURS not in row:
            continue
        # A ratio to something else than what was asked for must not be taken for it.
        title = f"{title} {numbers_of(row[OURS].remarks, known)}".rstrip()
        peer = [ratio(row[OURS], row.get(PEER), name) for name in COMPARED]
        yield [title, *peer, *(ratio(row[OURS], row.get(tool), "wall_seconds") for tool in others)]


def as_text(rows):
    """Aligned; numbers to the right, the first column and remarks to the left."""
    rows = [list(map(str, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numeric = [is_numeric(rows, column) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def is_numeric(rows, column):
    return any(row[column].replace(".", "", 1).isdigit() for row in rows[1:])


def as_markdown(rows):
    rows = [list(map(str, row)) for row in rows]
    numeric = [is_numeric(rows, column) for column in range(len(rows[0]))]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def heading(document, results):
    """What was measured, where and with what."""
    options, where = document["options"], document["machine"]
    content = "mixed content" if options["mixed"] else "pgbench's content"
    rounds = options["repeat"]
    yield (f"{content} at scale {options['scale']} ({document['data_bytes'] / MIB:.0f} MiB), zstd level {options['level']}, "
           f"{options['workers']} workers, " + (f"median of {rounds} rounds" if rounds > 1 else "one round"))
    yield (f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB, {where['disk']}, Linux {where['kernel']}, "
           f"{document['date']}")
    load = document["load"]
    yield (f"the load changed {load['changed_percent']:.0f} % of the pages; these alone, compressed at that level: "
           f"{mebibytes(load['compressed_bytes'])} MiB")
    yield ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    others = [result.others_percent for row in results.values() for result in row.values() if result.status == "ok"]
    if others and statistics.mean(others) > BUSY_PERCENT:
        yield (f"the machine was busy with other work, {statistics.mean(others):.0f} % of it on average: "
               "CPU seconds tell more than wall seconds")


def footnotes(document, steps, results):
    yield from (f"({number}) {remark}" for number, remark in enumerate(remarks_of(steps, results), 1))
    yield from (f"{name}: {note}" for name, note in document["notes"].items())
    yield "peak: memory of all processes of the tool together (PSS, sampled); stored: growth of its repository, log included"
    yield "others: what part of the machine other processes used meanwhile, the server among them"
    yield "each restored cluster was started, and count and checksum of every table compared, before its time counted"


def text(document, steps, results):
    parts = ["\n".join(heading(document, results)), as_text(main_rows(steps, results)), as_text(ratio_rows(steps, results)),
             "\n".join(footnotes(document, steps, results))]
    return "\n\n".join(parts) + "\n"


def markdown(document, steps, results):
    parts = [
        "# Side by side",
        f"Made by `{document['command']}`; see [README.md](README.md).",
        as_list(heading(document, results)),
        as_markdown(main_rows(steps, results)),
        as_markdown(ratio_rows(steps, results)),
        as_list(footnotes(document, steps, results)),
    ]
    return "\n\n".join(parts) + "\n"


def as_list(lines):
    return "\n".join(f"- {line}" for line in lines)
