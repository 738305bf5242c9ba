"""What is in the cluster, and how it changes."""

import json
import random

# pgbench's filler compresses 34-fold; of --mixed, this part of the scale is pgbench's and the rest is text, JSON,
# compressed values and their indexes, about as large.
PGBENCH_PART = 4
MIXED_ROWS_PER_SCALE = 6500
STATES = ("open", "paid", "sent", "void")
SYLLABLES = "ka lo mi re tu ban der gos hul jin per sta vor wex yam zed qui fro nal ost".split()

SCHEMA = """
CREATE TABLE mixed (id bigint PRIMARY KEY, customer int NOT NULL, created timestamptz NOT NULL,
                    note text NOT NULL, attributes jsonb NOT NULL, attachment bytea NOT NULL);
ALTER TABLE mixed ALTER attachment SET STORAGE EXTERNAL;
"""

INDEXES = """
CREATE INDEX mixed_customer ON mixed (customer, created);
CREATE INDEX mixed_note ON mixed (left(note, 40));
CREATE INDEX mixed_attributes ON mixed USING gin (attributes jsonb_path_ops);
"""

UPDATE = """\\set id random(1, {rows})
UPDATE mixed SET created = now(), note = left(note || ' ' || md5(random()::text), 700) WHERE id = :id;
"""


def words(generator, count):
    """Text with the repetitiveness of prose: few words often, many seldom."""
    return " ".join(VOCABULARY[int(len(VOCABULARY) * generator.random() ** 3)] for _ in range(count))


def _vocabulary():
    generator = random.Random(1)
    return ["".join(generator.choices(SYLLABLES, k=generator.randint(1, 4))) for _ in range(4000)]


VOCABULARY = _vocabulary()


def mixed_rows(count, seed):
    """Rows for COPY."""
    generator = random.Random(seed)
    for number in range(1, count + 1):
        attributes = {"status": generator.choice(STATES), "total": generator.randint(1, 99999),
                      "token": f"{generator.getrandbits(96):x}", "tags": words(generator, 4).split()}
        created = f"2026-01-01 {number % 24:02}:{number % 60:02}:00Z"
        # Compressed data looks like noise to a compressor.
        attachment = f"\\\\x{generator.randbytes(generator.randint(500, 1300)).hex()}"
        row = (number, generator.randint(1, 50000), created, words(generator, 40), json.dumps(attributes), attachment)
        yield "\t".join(map(str, row)).encode() + b"\n"


class Workload:
    """pgbench's tables at a scale, and with `mixed` another table beside them."""

    def __init__(self, cluster, pgbench, scale, mixed, seed):
        self.cluster = cluster
        self.pgbench = pgbench
        self.mixed_rows = scale * MIXED_ROWS_PER_SCALE if mixed else 0
        self.scale = max(1, scale // PGBENCH_PART) if mixed else scale
        self.seed = seed

    def _run_pgbench(self, *options, env=None):
        connection = ("-h", self.cluster.socket, "-U", "postgres")
        self.cluster.runner.run([self.pgbench, *connection, *options, "postgres"], env=env)

    def fill(self):
        """Makes and fills the tables."""
        self._run_pgbench("-i", "-q", "-s", self.scale)
        if self.mixed_rows:
            self.cluster.sql(SCHEMA)
            copy = self.cluster.psql("-c", "COPY mixed FROM STDIN")
            self.cluster.runner.pipe(copy, mixed_rows(self.mixed_rows, self.seed))
            self.cluster.sql(*INDEXES.strip().splitlines(), "VACUUM ANALYZE mixed")

    def load(self, seconds, rate=0, env=None):
        """pgbench -N: an update, a select and an insert a transaction; with `mixed`, every other one updates that.

        `rate`: transactions a second; 0 for as many as there can be.
        """
        script = []
        if self.mixed_rows:
            path = self.cluster.socket / "update.sql"
            path.write_text(UPDATE.format(rows=self.mixed_rows))
            path.chmod(0o644)
            script = ["-f", f"{path}@1"]
        # Each load changes other rows.
        self.seed += 1
        self._run_pgbench("-n", "-b", "simple-update@1", *script, "-c", 4, "-j", 2, "-T", seconds,
                          f"--random-seed={self.seed}", *([f"--rate={rate}"] if rate else []), env=env)

    def change_one_row(self):
        self.cluster.sql("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 4711")

    def make_segments(self, count):
        """Writes until `count` more segments are whole; returns their names."""
        self.cluster.sql("SELECT pg_switch_wal()")
        first = self.cluster.current_segment()
        while True:
            # Each page's first change after a checkpoint logs the whole page, as on a server in use.
            self.cluster.sql("CHECKPOINT")
            self.load(5, env={"PGOPTIONS": "-c synchronous_commit=off"})
            self.cluster.sql("SELECT pg_switch_wal()")
            self.cluster.wait_until_archived()
            made = [name for name in self.cluster.finished_segments() if name >= first]
            if len(made) >= count:
                return made[:count]
