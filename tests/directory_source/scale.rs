//! Many files and large ones, in bounded memory; small by default, larger by the environment.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use lifeboat::base::{BackupId, BackupType, Result, Timestamp};
use lifeboat::source::directory::beneath::Root;
use lifeboat::source::directory::compare::Trust;
use lifeboat::source::directory::entry::Entry;
use lifeboat::source::directory::index::{Index, Place as Stored};
use lifeboat::source::directory::read::{Chunk, Hole, Reader, Reading, Sink, Within};
use lifeboat::source::directory::restore::Existing;
use lifeboat::source::directory::scan::{BaseEntries, Scan, Task};
use rand::Rng;

use crate::oracle::{assert_same, snapshot};
use crate::vault::{Plan, Vault, trust_all, walk_options};
use crate::{Place, random};

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Most memory that this process ever held, in MiB.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Stores nothing but the index.
struct Counting<'i> {
    index: &'i Index,
    id: &'i BackupId,
    chunks: u64,
    new: u64,
    new_bytes: u64,
}

impl Sink for Counting<'_> {
    fn restart(&mut self) -> Result<()> {
        Ok(())
    }

    fn chunk(&mut self, chunk: Chunk<'_>) -> Result<()> {
        self.chunks += 1;
        if self.index.find(&chunk.address, chunk.bytes.len())?.is_none() {
            self.new += 1;
            self.new_bytes += chunk.bytes.len() as u64;
            let raw_bytes = chunk.bytes.len() as u32;
            let place = Stored { owner: self.id.clone(), pack: 1, offset: self.new, stored_bytes: 1, raw_bytes };
            self.index.record(&chunk.address, &place)?;
        }
        Ok(())
    }

    fn hole(&mut self, _: Hole) -> Result<()> {
        Ok(())
    }
}

/// Entries of a backup in a file, a line each, as a base is read: one at a time.
fn spooled(path: &Path) -> BaseEntries<'static> {
    let lines = BufReader::new(File::open(path).unwrap()).lines();
    Box::new(lines.map(|line| Ok(serde_json::from_str::<Entry>(&line.unwrap()).unwrap())))
}

/// Scans and reads `source`, spools the entries to `spool`; tells what it did.
fn take(source: &Path, scratch: &Path, spool: &Path, base: Option<(BaseEntries<'_>, Trust)>, sink: &mut Counting<'_>) -> String {
    let start = Instant::now();
    let root = Arc::new(Root::open(source).unwrap());
    let mut scan = Scan::new(Arc::clone(&root), walk_options(scratch), base).unwrap();
    let mut out = BufWriter::new(File::create(spool).unwrap());
    let mut reader = Reader::new();
    let mut entries = 0;
    for task in scan.by_ref() {
        let entry = match task.unwrap() {
            Task::Keep(entry) | Task::Link(entry, _) | Task::Store(entry) => entry,
            Task::Read(entry, parent) => match reader.read(&root, &Within::Open(parent.fd), entry, sink).unwrap() {
                Reading::Read(entry) => entry,
                other => panic!("{other:?}"),
            },
            Task::Left(left) => panic!("{left:?}"),
        };
        entries += 1;
        serde_json::to_writer(&mut out, &entry).unwrap();
        out.write_all(b"\n").unwrap();
    }
    out.flush().unwrap();
    let tally = scan.tally();
    format!("{entries} entries in {:.2} s: {} read, {} kept", start.elapsed().as_secs_f64(), tally.read, tally.kept)
}

fn id(seconds: i64) -> BackupId {
    BackupId::fresh(Timestamp::from_unix_micros(seconds * 1_000_000).unwrap(), BackupType::Incr)
}

/// `files` files, half of them in one directory.
fn make_files(source: &Path, files: u64) {
    fs::create_dir(source.join("flat")).unwrap();
    for number in 0..files {
        let path = if number % 2 == 0 {
            source.join(format!("flat/{number:08}"))
        } else {
            let dir: PathBuf = source.join(format!("tree/{}/{}", number % 97, number % 89));
            if number < 2 * 97 * 89 {
                fs::create_dir_all(&dir).unwrap();
            }
            dir.join(format!("{number:08}.txt"))
        };
        fs::write(path, number.to_string()).unwrap();
    }
}

#[test]
fn many_files_cost_little_memory_and_an_unchanged_second_backup_reads_none() {
    let files = from_environment("LIFEBOAT_TEST_SCALE_FILES", 3000);
    let place = Place::new();
    make_files(&place.source(), files);
    let before = peak_mib();
    let (full, incr) = (id(1), id(2));
    let scratch = place.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let start = Instant::now();
    let root = Arc::new(Root::open(&place.source()).unwrap());
    let walked = lifeboat::source::directory::walk::Walk::new(root, walk_options(&scratch)).unwrap().count();
    println!("walk: {walked} in {:.2} s, memory peak {} → {} MiB", start.elapsed().as_secs_f64(), before, peak_mib());
    let index = Index::create(&place.path("chunks"), &full).unwrap();
    let mut sink = Counting { index: &index, id: &full, chunks: 0, new: 0, new_bytes: 0 };
    println!("full: {}", take(&place.source(), &scratch, &place.path("full"), None, &mut sink));
    assert_eq!((sink.chunks, sink.new), (files, files));
    index.commit().unwrap();
    println!("memory peak {} MiB, index {} MiB", peak_mib(), fs::metadata(place.path("chunks")).unwrap().len() >> 20);
    let index = Index::open(&place.path("chunks"), std::slice::from_ref(&full), &incr).unwrap();
    let mut sink = Counting { index: &index, id: &incr, chunks: 0, new: 0, new_bytes: 0 };
    let base = Some((spooled(&place.path("full")), trust_all()));
    println!("incr: {}", take(&place.source(), &scratch, &place.path("incr"), base, &mut sink));
    assert_eq!(sink.chunks, 0, "an unchanged file was read");
    let lines = |name: &str| BufReader::new(File::open(place.path(name)).unwrap()).lines().map(|line| line.unwrap());
    assert!(lines("full").eq(lines("incr")), "an unchanged file's entry differs");
    let grown = peak_mib() - before;
    println!("memory peak {} MiB, {grown} MiB more than before", peak_mib());
    assert!(grown < 150, "memory grew by {grown} MiB");
}

#[test]
fn a_byte_at_the_head_of_a_large_file_stores_few_new_chunks() {
    let bytes = from_environment("LIFEBOAT_TEST_SCALE_BYTES", 24 << 20);
    let place = Place::new();
    let path = place.source().join("large");
    let mut random = random::generator(random::seed("large file"), 0);
    let mut block = vec![0; 1 << 20];
    let mut file = BufWriter::new(File::create(&path).unwrap());
    for _ in 0..bytes >> 20 {
        random.fill_bytes(&mut block);
        file.write_all(&block).unwrap();
    }
    file.flush().unwrap();
    let scratch = place.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let (full, incr) = (id(1), id(2));
    let index = Index::create(&place.path("chunks"), &full).unwrap();
    let mut sink = Counting { index: &index, id: &full, chunks: 0, new: 0, new_bytes: 0 };
    println!("full: {}", take(&place.source(), &scratch, &place.path("full"), None, &mut sink));
    println!("{} chunks of {} KiB on average", sink.chunks, (bytes >> 10) / sink.chunks);
    assert_eq!(sink.new_bytes, bytes >> 20 << 20);
    index.commit().unwrap();
    insert_at_head(&path);
    let index = Index::open(&place.path("chunks"), std::slice::from_ref(&full), &incr).unwrap();
    let mut sink = Counting { index: &index, id: &incr, chunks: 0, new: 0, new_bytes: 0 };
    let base = Some((spooled(&place.path("full")), trust_all()));
    println!("incr: {}", take(&place.source(), &scratch, &place.path("incr"), base, &mut sink));
    println!("{} new chunks, {} bytes; memory peak {} MiB", sink.new, sink.new_bytes, peak_mib());
    assert!((1..=3).contains(&sink.new), "{} of {} chunks are new", sink.new, sink.chunks);
}

/// A tree as people have them: this package's sources, or the one that `LIFEBOAT_TEST_TREE` names.
#[test]
fn a_tree_as_people_have_them_comes_back_the_same() {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let tree = std::env::var_os("LIFEBOAT_TEST_TREE").map_or_else(own, PathBuf::from);
    let place = Place::new();
    let expected = snapshot(&tree);
    let mut vault = Vault::default();
    let start = Instant::now();
    let full = vault.backup(&tree, Plan::default());
    println!("full: {} entries, {} chunks in {:.2} s", full.stored.len(), full.new_chunks, start.elapsed().as_secs_f64());
    assert_eq!((full.stored.len() + 1, full.left.len()), (expected.len(), 0));
    let start = Instant::now();
    let shortfalls = vault.restore(&full, &place.path("target"), &[], Existing::Refuse).unwrap();
    println!("restore: {:.2} s", start.elapsed().as_secs_f64());
    assert_eq!(shortfalls.count, 0);
    assert_same(&expected, &snapshot(&place.path("target")), "restore");
    let again = vault.backup(&tree, Plan { base: Some(&full), ..Plan::default() });
    assert_eq!((again.tally.kept, again.new_chunks), (full.stored.len() as u64, 0));
}

/// Moves everything one byte on, from the end.
fn insert_at_head(path: &Path) {
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    let mut at = file.metadata().unwrap().len();
    let mut block = vec![0; 1 << 20];
    while at > 0 {
        let length = at.min(1 << 20) as usize;
        at -= length as u64;
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut block[..length]).unwrap();
        file.seek(SeekFrom::Start(at + 1)).unwrap();
        file.write_all(&block[..length]).unwrap();
    }
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"x").unwrap();
}
