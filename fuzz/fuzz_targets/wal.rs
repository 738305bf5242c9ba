//! The WAL reader on any bytes: a segment, and a single record, taken apart as far as they go.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::base::{Lsn, Segment, SegmentSize, TimelineId};
use lifeboat::source::postgres::wal::{Carry, Change, Event, Record, SegmentReader};

fuzz_target!(|data: &[u8]| {
    segment(data);
    record(data);
});

/// The bytes as a segment of 1 MiB; checksums let few records through, so headers and pages are what is tried here.
fn segment(data: &[u8]) {
    let size = SegmentSize::new(1 << 20).expect("a size that PostgreSQL knows");
    let segment = Segment { timeline: TimelineId(1), number: 3 };
    let Ok(mut reader) = SegmentReader::new(segment, size, data, Carry::Unknown) else { return };
    while let Some(record) = reader.next_record() {
        take_apart(&record);
    }
    let carry = reader.finish().carry;
    assert_eq!(Carry::from_bytes(&carry.to_bytes()), Some(carry));
}

/// The bytes as a record: version, resource manager and info first, then its body.
fn record(data: &[u8]) {
    let [version, resource_manager, info, cut, body @ ..] = data else { return };
    let total_length = (body.len() + 24 + usize::from(*cut)) as u32;
    take_apart(&Record {
        start: Lsn(8),
        end: Lsn(16),
        previous: Lsn(0),
        xid: 1,
        resource_manager: *resource_manager,
        info: *info,
        total_length,
        major_version: 13 + u16::from(version % 6),
        body,
    });
}

fn take_apart(record: &Record<'_>) {
    let _ = Event::decode(record);
    let Ok(body) = record.parts() else { return };
    for block in body.blocks() {
        let _ = block.image.map(|image| (image.raw_bytes(), image.has_special_space()));
    }
    match Change::decode(record, &body) {
        Ok(Change::Ended(ended)) => assert_eq!(ended.dropped.iter().count(), ended.dropped.len()),
        Ok(Change::Locked(locks)) => assert_eq!(locks.iter().count(), locks.len()),
        _ => {}
    }
}
