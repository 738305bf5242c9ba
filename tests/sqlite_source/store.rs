//! Segments as files in a directory: the least that the capture needs of a repository.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use lifeboat::source::sqlite::{
    Batch, Moment, Restore, Restored, SegmentHeader, SegmentReader, SegmentWriter, Snapshot, Watch, chain_to,
};

/// All segments of `dir`, by name, with their headers.
pub fn segments(dir: &Path) -> Vec<(PathBuf, SegmentHeader)> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<PathBuf> = names.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect();
    names.sort();
    names.into_iter().map(|path| (path.clone(), *open(&path).header())).collect()
}

pub fn open(path: &Path) -> SegmentReader<BufReader<File>> {
    SegmentReader::begin(BufReader::new(File::open(path).unwrap())).unwrap()
}

/// Copies and stores a snapshot whole.
pub fn put_snapshot(dir: &Path, watch: &mut Watch, snapshot: &Snapshot) -> lifeboat::base::Result<()> {
    let header = SegmentHeader { from: None, to: snapshot.moment };
    put(dir, &header, |writer| {
        watch.copy_snapshot(snapshot, |page, bytes| {
            writer.page(page, bytes).unwrap();
            Ok(())
        })
    })
}

/// Copies and stores a batch.
pub fn put_batch(dir: &Path, watch: &Watch, batch: &Batch) -> lifeboat::base::Result<()> {
    let header = SegmentHeader { from: Some(batch.from), to: batch.to };
    put(dir, &header, |writer| {
        watch.copy_batch(batch, |page, bytes| {
            writer.page(page, bytes).unwrap();
            Ok(())
        })
    })
}

/// Writes a segment, and gives it its name only when `fill` succeeded.
pub fn put(
    dir: &Path,
    header: &SegmentHeader,
    fill: impl FnOnce(&mut SegmentWriter<Vec<u8>>) -> lifeboat::base::Result<()>,
) -> lifeboat::base::Result<()> {
    let mut writer = SegmentWriter::begin(Vec::new(), header).unwrap();
    fill(&mut writer)?;
    let name = format!("{:020}", header.to.captured_at.unix_micros());
    let temporary = dir.join(format!("{name}.tmp"));
    fs::write(&temporary, writer.finish().unwrap()).unwrap();
    fs::rename(temporary, dir.join(format!("{name}.segment"))).unwrap();
    Ok(())
}

/// Restores the latest moment at or before `moment`'s time of capture into `target`.
pub fn restore(segments: &[(PathBuf, SegmentHeader)], moment: &Moment, target: &Path) -> lifeboat::base::Result<Restored> {
    let headers: Vec<SegmentHeader> = segments.iter().map(|(_, header)| *header).collect();
    let chain = chain_to(&headers, Some(moment.captured_at)).expect("a snapshot that is old enough");
    let mut restore = Restore::begin(target)?;
    for index in chain {
        restore.apply(BufReader::new(File::open(&segments[index].0).unwrap()))?;
    }
    let restored = restore.finish()?;
    let size = u64::from(restored.moment.at.pages) * u64::from(restored.moment.at.page_size);
    assert_eq!(fs::metadata(target).unwrap().len(), size, "the size of the restored file");
    Ok(restored)
}
