//! A cluster's random life: rows, relations, tablespaces, databases, housekeeping, restarts and crashes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rand::RngExt;
use rand::rngs::StdRng;

use super::rows;
use super::stage::{self, Stage};
use super::support::dirs;
use super::support::postgres::Stop;
use super::support::random;

const MOST_TABLES: usize = 7;
const MOST_TABLESPACES: usize = 3;
const MOST_DATABASES: usize = 2;

/// What a step does, how often it is taken, and its name.
type Step = (u32, &'static str, fn(&mut World, &mut Stage));

const STEPS: [Step; 26] = [
    (30, "change rows", World::change_rows),
    (4, "create table", World::create_table),
    (2, "create table as", World::create_table_as),
    (3, "drop table", World::drop_table),
    (3, "truncate", World::truncate),
    (6, "create index", World::create_index),
    (2, "drop index", World::drop_index),
    (3, "reindex", World::reindex),
    (9, "vacuum", World::vacuum),
    (2, "vacuum full", World::vacuum_full),
    (2, "cluster", World::cluster),
    (4, "shrink and grow", World::shrink_and_grow),
    (3, "rewrite", World::rewrite),
    (4, "persistence", World::persistence),
    (3, "move relation", World::move_relation),
    (3, "create tablespace", World::create_tablespace),
    (2, "move tablespace", World::move_tablespace),
    (2, "drop tablespace", World::drop_tablespace),
    (3, "create database", World::create_database),
    (3, "change in a database", World::change_in_database),
    (2, "drop database", World::drop_database),
    (2, "database again", World::database_again),
    (2, "sequence", World::sequence),
    (3, "prepared transaction", World::prepared),
    (3, "checkpoint", World::checkpoint),
    (6, "restart or crash", World::restart),
];

/// The state of a history.
#[derive(Debug)]
pub struct World {
    random: StdRng,
    major: u32,
    tables: Vec<String>,
    indexes: Vec<String>,
    tablespaces: Vec<(String, PathBuf)>,
    databases: Vec<String>,
    prepared: Option<String>,
    next: u32,
    tally: BTreeMap<&'static str, u32>,
}

impl World {
    /// A world with a few tables and a tablespace.
    #[track_caller]
    pub fn create(stage: &mut Stage, seed: u64) -> Self {
        let major = stage.cluster.installation.major;
        let mut world = Self {
            random: random::generator(seed, u64::from(major)),
            major,
            tables: Vec::new(),
            indexes: Vec::new(),
            tablespaces: Vec::new(),
            databases: Vec::new(),
            prepared: None,
            next: 0,
            tally: BTreeMap::new(),
        };
        world.create_tablespace(stage);
        for _ in 0..3 {
            world.create_table(stage);
        }
        // Two that no step drops or shrinks: a judge finds rows and marked pages in them.
        let (columns, insert) = (rows::COLUMNS, rows::insert(&mut world.random, "steady", 3000));
        let mut statements = vec![format!("CREATE TABLE steady ({columns})"), insert];
        statements.extend(["CREATE INDEX ON steady (k)", "CREATE TABLE prepared (id int PRIMARY KEY)"].map(str::to_owned));
        statements.push("VACUUM steady".to_owned());
        world.run(stage, &statements);
        world
    }

    /// Takes one random step.
    #[track_caller]
    pub fn step(&mut self, stage: &mut Stage) {
        let total = STEPS.iter().map(|(weight, ..)| weight).sum();
        let mut dice = self.random.random_range(0..total);
        let fits = |(weight, ..): &&Step| {
            let hit = dice < *weight;
            dice = dice.saturating_sub(*weight);
            hit
        };
        let (_, name, act) = STEPS.iter().find(fits).expect("the weights are those of the total");
        println!("step: {name}");
        *self.tally.entry(name).or_default() += 1;
        act(self, stage);
    }

    /// A number below `end`.
    pub fn dice(&mut self, end: u32) -> u32 {
        self.random.random_range(0..end)
    }

    /// The tables in which rows may change at any time.
    pub fn tables(&self) -> Vec<String> {
        self.tables.iter().cloned().chain(["steady".to_owned()]).collect()
    }

    /// How often each step was taken.
    pub fn tally(&self) -> &BTreeMap<&'static str, u32> {
        &self.tally
    }

    #[track_caller]
    fn run(&mut self, stage: &Stage, statements: &[String]) {
        run_aloud(&stage.cluster.conninfo(), statements);
    }

    fn name(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}{}", self.next)
    }

    fn pick(&mut self, from: &[String]) -> Option<String> {
        (!from.is_empty()).then(|| from[self.random.random_range(0..from.len())].clone())
    }

    fn table(&mut self) -> Option<String> {
        let tables = self.tables.clone();
        self.pick(&tables)
    }

    /// ` TABLESPACE …`, or nothing.
    fn place(&mut self) -> String {
        let names: Vec<String> = self.tablespaces.iter().map(|(name, _)| name.clone()).collect();
        match self.pick(&names) {
            Some(name) if self.dice(2) == 0 => format!(" TABLESPACE {name}"),
            _ => String::new(),
        }
    }

    fn change_rows(&mut self, stage: &mut Stage) {
        for _ in 0..3 {
            let tables = self.tables();
            let table = self.pick(&tables).expect("steady");
            let statements = rows::change(&mut self.random, &table);
            self.run(stage, &statements);
        }
    }

    fn create_table(&mut self, stage: &mut Stage) {
        if self.tables.len() >= MOST_TABLES {
            return self.change_rows(stage);
        }
        let (name, place) = (self.name("t"), self.place());
        let unlogged = if self.dice(8) == 0 { "UNLOGGED " } else { "" };
        let fill = 40 + self.dice(61);
        let rows = 200 + self.dice(1500);
        let statements = [
            format!("CREATE {unlogged}TABLE {name} ({}) WITH (fillfactor = {fill}){place}", rows::COLUMNS),
            format!("ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL"),
            rows::insert(&mut self.random, &name, rows),
            format!("CREATE INDEX ON {name} (k){place}"),
        ];
        self.run(stage, &statements);
        self.tables.push(name);
    }

    fn create_table_as(&mut self, stage: &mut Stage) {
        let (Some(source), name, place) = (self.table(), self.name("t"), self.place()) else { return };
        if self.tables.len() >= MOST_TABLES {
            return;
        }
        let statements = [
            format!("CREATE TABLE {name} (LIKE {source} INCLUDING IDENTITY INCLUDING INDEXES){place}"),
            format!("INSERT INTO {name} SELECT * FROM {source}"),
            format!("SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM {source}))"),
        ];
        self.run(stage, &statements);
        self.tables.push(name);
    }

    fn drop_table(&mut self, stage: &mut Stage) {
        let Some(table) = self.table().filter(|_| self.tables.len() > 2) else { return };
        self.run(stage, &[format!("DROP TABLE {table}")]);
        self.tables.retain(|other| *other != table);
        self.indexes.retain(|index| !index.starts_with(&format!("{table}_")));
    }

    fn truncate(&mut self, stage: &mut Stage) {
        let Some(table) = self.table() else { return };
        let again = rows::insert(&mut self.random, &table, 300);
        let truncate = format!("TRUNCATE {table}");
        let statements = match self.dice(3) {
            0 => vec!["BEGIN".to_owned(), truncate, again, "ROLLBACK".to_owned()],
            1 => vec!["BEGIN".to_owned(), truncate, again, "COMMIT".to_owned()],
            _ => vec![truncate, again],
        };
        self.run(stage, &statements);
    }

    fn create_index(&mut self, stage: &mut Stage) {
        let (Some(table), place) = (self.table(), self.place()) else { return };
        let (what, filter) = match self.dice(9) {
            0 => ("USING btree (v)", ""),
            1 => ("USING btree (k) INCLUDE (id)", ""),
            2 => ("USING btree (k)", " WHERE k < 500"),
            3 => ("USING hash (k)", ""),
            4 => ("USING gin (tags)", ""),
            5 => ("USING gist (spot)", ""),
            6 => ("USING spgist (spot)", ""),
            7 => ("USING brin (id) WITH (pages_per_range = 2)", ""),
            _ => ("USING gin (tags) WITH (fastupdate = off)", ""),
        };
        let number = self.name("");
        let index = format!("{table}_i{number}");
        self.run(stage, &[format!("CREATE INDEX {index} ON {table} {what}{place}{filter}")]);
        self.indexes.push(index);
    }

    fn drop_index(&mut self, stage: &mut Stage) {
        let indexes = self.indexes.clone();
        let Some(index) = self.pick(&indexes) else { return };
        let concurrently = if self.prepared.is_none() && self.dice(2) == 0 { "CONCURRENTLY " } else { "" };
        self.run(stage, &[format!("DROP INDEX {concurrently}{index}")]);
        self.indexes.retain(|other| *other != index);
    }

    fn reindex(&mut self, stage: &mut Stage) {
        let Some(table) = self.table() else { return };
        // It waits for transactions, prepared ones too.
        let concurrently = if self.prepared.is_none() && self.dice(2) == 0 { "CONCURRENTLY " } else { "" };
        self.run(stage, &[format!("REINDEX TABLE {concurrently}{table}")]);
    }

    fn vacuum(&mut self, stage: &mut Stage) {
        let options = ["", " (FREEZE)", " (DISABLE_PAGE_SKIPPING)", " (ANALYZE)", " (INDEX_CLEANUP off)"];
        let option = options[self.dice(5) as usize];
        let statements = match (self.table(), self.dice(4)) {
            (Some(table), 1..) => vec![format!("VACUUM{option} {table}"), format!("VACUUM{option} steady")],
            _ => vec![format!("VACUUM{option}")],
        };
        self.run(stage, &statements);
    }

    fn vacuum_full(&mut self, stage: &mut Stage) {
        let Some(table) = self.table() else { return };
        let what = if self.dice(4) == 0 { "pg_class".to_owned() } else { table };
        self.run(stage, &[format!("VACUUM FULL {what}")]);
    }

    fn cluster(&mut self, stage: &mut Stage) {
        let Some(table) = self.table() else { return };
        let key = format!("SELECT indexrelid::regclass FROM pg_index WHERE indrelid = '{table}'::regclass AND indisprimary");
        let key = stage.cluster.sql().value(&key);
        self.run(stage, &[format!("CLUSTER {table} USING {key}")]);
    }

    /// The file shrinks to nothing, or at its end, and grows again over the same blocks.
    fn shrink_and_grow(&mut self, stage: &mut Stage) {
        let Some(table) = self.table() else { return };
        let filter =
            if self.dice(2) == 0 { "" } else { " WHERE id > (SELECT percentile_disc(0.4) WITHIN GROUP (ORDER BY id) FROM " };
        let filter = if filter.is_empty() { String::new() } else { format!("{filter}{table})") };
        let rows = 100 + self.dice(1000);
        let mut statements = vec![format!("DELETE FROM {table}{filter}"), format!("VACUUM (TRUNCATE) {table}")];
        if self.dice(2) == 0 {
            statements.push("CHECKPOINT".to_owned());
        }
        if self.dice(3) > 0 {
            statements.push(rows::insert(&mut self.random, &table, rows));
        }
        self.run(stage, &statements);
    }

    fn rewrite(&mut self, stage: &mut Stage) {
        let Some(table) = self.table() else { return };
        let column = self.name("extra");
        let statements = [
            format!("ALTER TABLE {table} ADD COLUMN {column} float DEFAULT random()"),
            format!("UPDATE {table} SET {column} = 1 WHERE id % 3 = 0"),
            format!("ALTER TABLE {table} DROP COLUMN {column}"),
        ];
        self.run(stage, &statements);
    }

    fn persistence(&mut self, stage: &mut Stage) {
        let Some(table) = self.table() else { return };
        let now = stage.cluster.sql().value(&format!("SELECT relpersistence FROM pg_class WHERE oid = '{table}'::regclass"));
        let to = if now == "u" { "LOGGED" } else { "UNLOGGED" };
        let more = rows::insert(&mut self.random, &table, 100);
        self.run(stage, &[format!("ALTER TABLE {table} SET {to}"), more]);
        if to == "UNLOGGED" && self.dice(3) > 0 {
            self.run(stage, &[format!("ALTER TABLE {table} SET LOGGED")]);
        }
    }

    fn move_relation(&mut self, stage: &mut Stage) {
        let (Some(table), place) = (self.table(), self.place()) else { return };
        let place = if place.is_empty() { " TABLESPACE pg_default".to_owned() } else { place };
        let indexes: Vec<String> = self.indexes.iter().filter(|index| index.starts_with(&format!("{table}_"))).cloned().collect();
        let mut statements = vec![format!("ALTER TABLE {table} SET{place}")];
        statements.extend(self.pick(&indexes).map(|index| format!("ALTER INDEX {index} SET{place}")));
        self.run(stage, &statements);
    }

    fn create_tablespace(&mut self, stage: &mut Stage) {
        if self.tablespaces.len() >= MOST_TABLESPACES {
            return self.move_relation(stage);
        }
        let name = self.name("space");
        let place = stage.cluster.dir().create_dir(&name);
        self.run(stage, &[format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display())]);
        self.tablespaces.push((name, place));
    }

    /// With the server stopped, as the manual allows: the directory is moved, and its link made anew.
    fn move_tablespace(&mut self, stage: &mut Stage) {
        if self.tablespaces.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.tablespaces.len());
        let (name, old) = self.tablespaces[at].clone();
        let oid = stage.cluster.sql().value(&format!("SELECT oid FROM pg_tablespace WHERE spcname = '{name}'"));
        let new = stage.cluster.dir().join(self.name("moved"));
        println!("  {name}: {} to {}", old.display(), new.display());
        stage.cluster.stop(Stop::Fast);
        let link = stage.cluster.data.join("pg_tblspc").join(oid);
        fs::rename(&old, &new).and_then(|()| fs::remove_file(&link)).expect("own directory");
        std::os::unix::fs::symlink(&new, &link).expect("own directory");
        dirs::give(&link);
        stage.cluster.start();
        self.tablespaces[at].1 = new;
    }

    fn drop_tablespace(&mut self, stage: &mut Stage) {
        if self.tablespaces.len() < 2 {
            return;
        }
        let at = self.random.random_range(0..self.tablespaces.len());
        let (name, _) = self.tablespaces.swap_remove(at);
        let mut statements = Vec::new();
        for kind in ["TABLE", "INDEX"] {
            statements.push(format!("ALTER {kind} ALL IN TABLESPACE {name} SET TABLESPACE pg_default"));
        }
        statements.extend(self.databases.iter().map(|database| format!("ALTER DATABASE {database} SET TABLESPACE pg_default")));
        statements.push(format!("DROP TABLESPACE {name}"));
        self.run(stage, &statements);
    }

    /// How a database is copied: by files, or (from 15 on) by log.
    fn strategy(&mut self) -> &'static str {
        match (self.major, self.dice(3)) {
            (..15, _) => "",
            (_, 0) => " STRATEGY wal_log",
            _ => " STRATEGY file_copy",
        }
    }

    fn template(&mut self) -> String {
        let mut templates = self.databases.clone();
        templates.extend(["template0".to_owned(), "template1".to_owned()]);
        self.pick(&templates).expect("template0")
    }

    fn create_database(&mut self, stage: &mut Stage) {
        if self.databases.len() >= MOST_DATABASES {
            return self.drop_database(stage);
        }
        let (name, template) = (self.name("d"), self.template());
        let (strategy, place) = (self.strategy(), self.place());
        self.run(stage, &[format!("CREATE DATABASE {name} TEMPLATE {template}{strategy}{place}")]);
        self.databases.push(name);
        self.change_in_database(stage);
    }

    fn change_in_database(&mut self, stage: &mut Stage) {
        let databases = self.databases.clone();
        let Some(database) = self.pick(&databases) else { return };
        let mut statements = vec![format!("CREATE TABLE IF NOT EXISTS inside ({})", rows::COLUMNS)];
        statements.push(rows::insert(&mut self.random, "inside", 200));
        statements.extend(rows::change(&mut self.random, "inside"));
        if self.dice(2) == 0 {
            statements.push("VACUUM".to_owned());
        }
        run_aloud(&stage.cluster.conninfo_of(&database), &statements);
        if self.dice(4) == 0 {
            let place = self.place();
            let place = if place.is_empty() { " TABLESPACE pg_default".to_owned() } else { place };
            self.run(stage, &[format!("ALTER DATABASE {database} SET{place}")]);
        }
    }

    fn drop_database(&mut self, stage: &mut Stage) {
        let databases = self.databases.clone();
        let Some(database) = self.pick(&databases) else { return };
        self.run(stage, &[format!("DROP DATABASE {database}")]);
        self.databases.retain(|other| *other != database);
    }

    /// Dropped and made anew from another template, under the same number where that can be said: the same paths, and
    /// often the same inodes, hold other pages with old LSNs.
    fn database_again(&mut self, stage: &mut Stage) {
        let databases = self.databases.clone();
        let Some(database) = self.pick(&databases) else { return self.create_database(stage) };
        let oid = stage.cluster.sql().value(&format!("SELECT oid FROM pg_database WHERE datname = '{database}'"));
        self.databases.retain(|other| *other != database);
        let template = self.template();
        let number = if self.major >= 15 { format!(" OID {oid} STRATEGY file_copy") } else { String::new() };
        let statements = [format!("DROP DATABASE {database}"), format!("CREATE DATABASE {database} TEMPLATE {template}{number}")];
        self.run(stage, &statements);
        self.databases.push(database);
    }

    fn sequence(&mut self, stage: &mut Stage) {
        let statements = match self.dice(4) {
            0 => vec!["CREATE SEQUENCE IF NOT EXISTS counter CACHE 5".to_owned()],
            1 => vec!["DROP SEQUENCE IF EXISTS counter".to_owned()],
            2 => vec!["SELECT setval(pg_get_serial_sequence('steady', 'id'), (SELECT max(id) + 1000 FROM steady))".to_owned()],
            _ => vec!["SELECT nextval(pg_get_serial_sequence('steady', 'id')) FROM generate_series(1, 100)".to_owned()],
        };
        self.run(stage, &statements);
    }

    /// Begun in one step, and ended in a later one: it outlives backups and crashes.
    fn prepared(&mut self, stage: &mut Stage) {
        let statements = match self.prepared.take() {
            Some(name) => {
                let end = if self.dice(2) == 0 { "COMMIT" } else { "ROLLBACK" };
                vec![format!("{end} PREPARED '{name}'")]
            }
            None => {
                let name = self.name("p");
                self.prepared = Some(name.clone());
                let insert = format!("INSERT INTO prepared VALUES ({})", self.next);
                vec!["BEGIN".to_owned(), insert, format!("PREPARE TRANSACTION '{name}'")]
            }
        };
        self.run(stage, &statements);
    }

    fn checkpoint(&mut self, stage: &mut Stage) {
        let statements =
            if self.dice(3) == 0 { vec!["SELECT pg_switch_wal()".to_owned()] } else { vec!["CHECKPOINT".to_owned()] };
        self.run(stage, &statements);
    }

    fn restart(&mut self, stage: &mut Stage) {
        let how = self.dice(3);
        println!("  {}", ["stopped fast", "stopped at once", "killed"][how as usize]);
        match how {
            0 => stage.cluster.stop(Stop::Fast),
            1 => stage.cluster.stop(Stop::Immediate),
            _ => stage.cluster.kill9(),
        }
        stage.cluster.start();
    }
}

/// Runs statements one after the other, each said before.
#[track_caller]
fn run_aloud(conninfo: &str, statements: &[String]) {
    for statement in statements {
        println!("  {}", statement.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect::<String>());
    }
    stage::run(conninfo, statements);
}
