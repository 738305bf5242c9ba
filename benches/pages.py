"""Which pages of a cluster's relations changed between two moments, and what these alone compress to."""

import hashlib
import os
import re
from pathlib import Path

PAGE_BYTES = 8192
RELATION = re.compile(r"\d+(_(fsm|vm))?(\.\d+)?")


def relation_files(data):
    """Every relation file below `base` and `global`, in order."""
    for folder in (data / "base", data / "global"):
        for directory, _, names in os.walk(folder):
            yield from (Path(directory) / name for name in sorted(names) if RELATION.fullmatch(name))


def pages_of(path):
    """Every page of a file, with its digest."""
    with open(path, "rb") as file:
        while page := file.read(PAGE_BYTES):
            yield page, hashlib.blake2b(page, digest_size=8).digest()


def digests(data):
    """Of each relation file the digests of its pages."""
    return {path: [digest for _, digest in pages_of(path)] for path in relation_files(data)}


class Changes:
    """What differs from earlier `digests`: how many pages of how many, and these compressed as one stream."""

    def __init__(self, runner, data, before, level):
        self.pages = self.changed = 0
        compressed = data.parent / "changed-pages.zst"
        runner.pipe(["zstd", "-q", "-f", f"-{level}", "-o", compressed], self._find(data, before))
        self.compressed_bytes = compressed.stat().st_size
        compressed.unlink()

    def _find(self, data, before):
        for path in relation_files(data):
            known = before.get(path, [])
            for number, (page, digest) in enumerate(pages_of(path)):
                self.pages += 1
                if number >= len(known) or known[number] != digest:
                    self.changed += 1
                    yield page
