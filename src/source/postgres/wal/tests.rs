//! The reader on logs made by hand: straddling, abandoned, stale and damaged ones, and bytes at random.

use std::ops::ControlFlow;

use proptest::prelude::*;

use crate::base::{Lsn, Segment, SegmentSize, TimelineId, Timestamp};

use super::fixture::{Log, SYSTEM_IDENTIFIER, Written};
use super::*;

/// A record as far as it is compared: start, end, link, transaction, manager, total length, whole body.
type Seen = (Lsn, Lsn, Lsn, u32, u8, u32, Vec<u8>);

fn seen(record: &Record<'_>) -> Seen {
    let body = record.body.to_vec();
    (record.start, record.end, record.previous, record.xid, record.resource_manager, record.total_length, body)
}

fn read(segment: Segment, size: SegmentSize, bytes: &[u8], carry: Carry) -> Result<(Vec<Seen>, SegmentEnd), WalError> {
    let mut reader = SegmentReader::new(segment, size, bytes, carry)?;
    let mut records = Vec::new();
    while let Some(record) = reader.next_record() {
        records.push(seen(&record));
    }
    Ok((records, reader.finish()))
}

/// All segments of the log, the carry taken through its byte form in between.
fn read_all(log: &Log, segments: &[(Segment, Vec<u8>)]) -> (Vec<Seen>, Vec<SegmentEnd>) {
    let mut carry = Carry::Unknown;
    let (mut records, mut ends) = (Vec::new(), Vec::new());
    for (segment, bytes) in segments {
        let (more, end) = read(*segment, log.size, bytes, carry).unwrap();
        assert!(more.iter().all(|record| Segment::ending_at(segment.timeline, record.1, log.size) == *segment));
        records.extend(more);
        carry = Carry::from_bytes(&end.carry.to_bytes()).unwrap();
        assert_eq!(carry, end.carry);
        ends.push(end);
    }
    (records, ends)
}

fn spans(records: &[Seen]) -> Vec<(Lsn, Lsn)> {
    records.iter().map(|record| (record.0, record.1)).collect()
}

fn written_spans(written: &[Written]) -> Vec<(Lsn, Lsn)> {
    written.iter().map(|record| (record.start, record.end)).collect()
}

/// A log whose records have main data of these lengths.
fn log_of(lengths: &[usize]) -> (Log, Vec<Written>) {
    let mut log = Log::new();
    let written = lengths.iter().enumerate();
    let written = written.map(|(index, length)| log.append(10, 0, index as u32, &vec![index as u8; *length])).collect();
    (log, written)
}

fn pg_time(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(946_684_800_000_000 + micros).unwrap()
}

/// Takes a record apart as far as it goes.
fn read_in_full(record: &Record<'_>) {
    let Ok(body) = record.parts() else { return };
    for block in body.blocks() {
        let _ = block.image.map(|image| (image.raw_bytes(), image.has_special_space()));
    }
    match Change::decode(record, &body) {
        Ok(Change::Ended(ended)) => drop((ended.subtransactions.iter().count(), ended.dropped.iter().count())),
        Ok(Change::Locked(locks)) => assert_eq!(locks.iter().count(), locks.len()),
        Ok(_) | Err(_) => {}
    }
}

/// A body with one page for each of these flags, without images, and main data.
fn body_with_blocks(flags: &[u8], main_data: &[u8]) -> Vec<u8> {
    let relation = |id| Relation { tablespace: 1663, database: 5, file_node: 16384 + id as u32 };
    let pages: Vec<(u8, Relation, u32)> = flags.iter().enumerate().map(|(id, flags)| (flags & 0x43, relation(id), 7)).collect();
    super::fixture::body_with_pages(&pages, main_data)
}

/// A record of its own, of this version.
fn record_of(resource_manager: u8, info: u8, major_version: u16, body: &[u8]) -> Record<'_> {
    let total_length = (body.len() + RECORD_HEADER_BYTES) as u32;
    Record { start: Lsn(8), end: Lsn(16), previous: Lsn(0), xid: 9, resource_manager, info, total_length, major_version, body }
}

#[test]
fn what_is_not_known_is_said_to_be_unknown() {
    let change = |manager, info, version, main_data: &[u8]| {
        let body = body_with_blocks(&[0, 0], main_data);
        let record = record_of(manager, info, version, &body);
        format!("{:?}", Change::decode(&record, &record.parts().unwrap()).unwrap())
    };
    let ends_with_flags = |flags: u32| [&[0; 8][..], &flags.to_le_bytes()].concat();
    let unknown = [
        change(200, 0, 15, &[]),
        change(resource_manager::HEAP, 0x04, 15, &[0; 8]),
        change(resource_manager::HEAP, 0x90, 15, &[0; 8]),
        change(resource_manager::STORAGE, 0x30, 15, &[0; 20]),
        change(resource_manager::STORAGE, 0x20, 15, &[0xFF; 20]),
        change(resource_manager::DATABASE, 0x20, 14, &[0; 8]),
        change(resource_manager::HEAP2, 0x40, 15, &[0, 0, 0, 0, 4]),
        change(resource_manager::TRANSACTION, 0x60, 13, &[0; 16]),
        change(resource_manager::TRANSACTION, 0x80, 14, &ends_with_flags(1 << 8)),
        change(resource_manager::TRANSACTION, 0x80, 18, &ends_with_flags(1 << 9)),
        change(resource_manager::XLOG, 0xE0, 16, &[]),
    ];
    assert!(unknown.iter().all(|change| change == "Unknown"), "{unknown:?}");
    assert!(change(resource_manager::HEAP2, 0x40, 16, &[0, 0, 0, 0, 4]).starts_with("Visible"));
    assert!(change(resource_manager::HEAP, 0x10, 16, &[0; 8]).starts_with("Rows"));
    let short = body_with_blocks(&[0], &[0; 3]);
    let record = record_of(resource_manager::HEAP, 0x10, 16, &short);
    assert!(Change::decode(&record, &record.parts().unwrap()).is_err());
}

#[test]
fn pages_and_their_images_are_found_in_the_body() {
    // Page 0 with an image around a hole of 8000 bytes; page 3 of the same relation's visibility map with two bytes of data.
    let image: Vec<u8> = (0..192_u8).collect();
    let mut body = vec![0, 0x10, 0, 0];
    body.extend([192_u16, 100].iter().flat_map(|number| number.to_le_bytes()));
    body.push(0x03);
    body.extend([1663_u32, 5, 16384, 7].iter().flat_map(|number| number.to_le_bytes()));
    body.extend([3, 0xA2, 2, 0, 1, 0, 0, 0, 255, 1]);
    body.extend(&image);
    body.extend([0xAA, 0xBB, 0xCC]);
    let record = record_of(resource_manager::HEAP, 0, 15, &body);
    let parts = record.parts().unwrap();
    let blocks: Vec<BlockRef<'_>> = parts.blocks().collect();
    let found = blocks[0].image.unwrap();
    assert_eq!((found.bytes, found.hole_bytes, found.raw_bytes(), found.compression), (&image[..], 8000, 192, None));
    assert_eq!((blocks[1].id, blocks[1].fork, blocks[1].data_bytes), (3, crate::source::Fork::VisibilityMap, 2));
    assert_eq!(blocks[1].relation, Relation { tablespace: 1663, database: 5, file_node: 16384 });
    assert_eq!(parts.main_data(), Some(&[0xCC][..]));

    let cut = Record { body: &body[..100], ..record };
    let parts = cut.parts().unwrap();
    assert_eq!((parts.main_data(), parts.blocks().count()), (None, 2), "of a long record only the beginning is kept");
    let mut repeated = body.clone();
    repeated[25] = 0;
    assert!(record_of(resource_manager::HEAP, 0, 15, &repeated).parts().is_err(), "pages are in order");
}

#[test]
fn a_record_that_straddles_three_segments_ends_in_the_last() {
    let (log, written) = log_of(&[100, 2_500_000, 100]);
    let segments = log.segments();
    let (records, ends) = read_all(&log, &segments);
    assert_eq!(spans(&records), written_spans(&written));
    assert_eq!(segments.len(), 3);
    assert!(matches!(&ends[1].carry, Carry::Partial { partial, .. } if partial.start() == written[1].start));
    assert_eq!(ends[1].last_record, None);
    assert_eq!(ends[2].stop, Stop::EndOfLog { at: written[2].end, fault: Fault::Empty });
    assert_eq!(ends[2].last_record.map(|span| span.start), Some(written[2].start));

    let kept = records[1].6.len() + RECORD_HEADER_BYTES;
    assert_eq!(kept, 512 << 10, "of an uninteresting record only the beginning is kept");
}

#[test]
fn a_header_may_straddle_and_a_boundary_may_be_met_exactly() {
    // The first page has room for 8192 − 40 bytes: 8152 − 24 − 2 − 128 … so that 8, 16 or 24 bytes are left, or none.
    for left in [0_usize, 8, 16, 24] {
        let (log, written) = log_of(&[8192 - 40 - 24 - 5 - left, 300, 20]);
        let (records, _) = read_all(&log, &log.segments());
        assert_eq!(spans(&records), written_spans(&written), "{left} bytes left on the page");
        let next_page = log.lsn(8192);
        assert_eq!(written[1].start, if left == 0 { next_page.plus(24) } else { Lsn(next_page.0 - left as u64) });
    }
}

#[test]
fn nothing_straddles_when_a_record_ends_on_the_boundary() {
    let mut log = Log::new();
    let filled = log.append(10, 0, 1, &vec![7; (1 << 20) - 40 - 127 * 24 - 24 - 5]);
    let next = log.append(10, 0, 2, b"x");
    assert_eq!(filled.end, log.first.end(log.size));
    let (records, ends) = read_all(&log, &log.segments());
    assert_eq!(spans(&records), written_spans(&[filled.clone(), next]));
    let expected = Carry::Nothing { boundary: filled.end, system_identifier: SYSTEM_IDENTIFIER, last_record: Some(filled.start) };
    assert_eq!(ends[0].carry, expected);
}

#[test]
fn without_the_head_a_straddling_record_is_passed_over_and_said_so() {
    let mut log = Log::new();
    log.append(10, 0, 1, &vec![7; (1 << 20) - 5000]);
    let straddling = log.append(1, 0x00, 2, &[&5_000_000_i64.to_le_bytes()[..], &[0; 20_000]].concat());
    let commit = log.commit(3, 7_000_000);
    let segments = log.segments();
    let (segment, bytes) = &segments[1];
    assert_eq!(Segment::ending_at(segment.timeline, straddling.end, log.size), *segment);

    let blind = summarise(*segment, log.size, bytes, &Carry::Unknown).unwrap();
    assert_eq!((blind.first_time(), blind.latest_time()), (EndTime::Unknown, EndTime::At(pg_time(7_000_000))));
    assert_eq!((blind.commits, blind.is_complete()), (1, false));
    assert_eq!(blind.last_record().map(|span| span.start), Some(commit.start));

    let before = summarise(segments[0].0, log.size, &segments[0].1, &Carry::Unknown).unwrap();
    assert_eq!((before.first_time(), before.commits, before.is_complete()), (EndTime::None, 0, true));
    let whole = summarise(*segment, log.size, bytes, &before.end.carry).unwrap();
    assert_eq!((whole.first_time(), whole.latest_time()), (EndTime::At(pg_time(5_000_000)), EndTime::At(pg_time(7_000_000))));
    assert_eq!((whole.commits, whole.end.head_unknown), (2, false));
}

#[test]
fn an_abandoned_record_is_dropped_and_its_successor_links_past_it() {
    for (filler, pages) in [(100, 1), ((1 << 20) - 5000, 128)] {
        let mut log = Log::new();
        let first = log.append(10, 0, 1, &vec![7; filler]);
        log.append(10, 0, 2, &vec![8; 30_000]);
        log.abandon(pages * 8192, first.start);
        let data = [first.end.0.to_le_bytes(), 9_000_000_i64.to_le_bytes()].concat();
        let mark = log.append(0, 0xD0, 0, &data);
        let last = log.commit(3, 10_000_000);
        let segments = log.segments();
        let (records, ends) = read_all(&log, &segments);
        assert_eq!(spans(&records), written_spans(&[first.clone(), mark, last]));
        assert!(!ends.iter().any(|end| end.head_unknown));

        let (segment, bytes) = segments.last().unwrap();
        let carry = if segments.len() > 1 { ends[0].carry.clone() } else { Carry::Unknown };
        let found = scan(*segment, log.size, bytes, &carry, |_, event| match event {
            Event::ContinuationOverwritten { .. } => ControlFlow::Break(event.clone()),
            _ => ControlFlow::Continue(()),
        });
        let expected = Event::ContinuationOverwritten { abandoned: first.end, time: pg_time(9_000_000) };
        assert_eq!(found.unwrap(), ControlFlow::Break(expected));
    }
}

#[test]
fn a_carry_that_does_not_belong_is_refused() {
    let (log, _) = log_of(&[100, 1_500_000, 100, 2_000_000]);
    let segments = log.segments();
    let (_, ends) = read_all(&log, &segments);
    let refused = |index: usize, carry: &Carry| {
        let (segment, bytes): &(Segment, Vec<u8>) = &segments[index];
        read(*segment, log.size, bytes, carry.clone()).is_err_and(|error| error.is_carry_mismatch())
    };
    let nothing = |system_identifier| Carry::Nothing { boundary: log.lsn(1 << 20), system_identifier, last_record: None };
    assert!(refused(2, &ends[0].carry), "of another boundary");
    assert!(refused(1, &nothing(SYSTEM_IDENTIFIER)), "something straddles");
    assert!(refused(1, &nothing(5)), "of another cluster");
    let Carry::Partial { boundary, system_identifier, last_record, mut partial } = ends[0].carry.clone() else { panic!() };
    partial.received_bytes -= 1;
    assert!(refused(1, &Carry::Partial { boundary, system_identifier, last_record, partial }), "of another length");
}

#[test]
fn after_a_switch_the_segment_is_padding() {
    let mut log = Log::new();
    log.append(10, 0, 1, &[1; 50]);
    let switch = log.append_raw(0, 0x40, 0, &[]);
    let mut segments = log.segments();
    let (segment, bytes) = &mut segments[0];
    bytes[9000..9100].fill(0xFF);
    let (records, end) = read(*segment, log.size, bytes, Carry::Unknown).unwrap();
    assert_eq!(spans(&records)[1], (switch.start, segment.end(log.size)));
    assert_eq!((end.stop, end.valid_end), (Stop::SegmentEnd, segment.end(log.size)));
}

#[test]
fn the_end_of_the_log_is_told_from_damage() {
    let (log, written) = log_of(&[5000; 300]);
    let (segment, whole) = log.segments().remove(0);
    let at = |bytes: &[u8]| read(segment, log.size, bytes, Carry::Unknown).unwrap().1.stop;
    let middle = &written[50];
    let offset = middle.start.bytes_since(segment.start(log.size)) as usize;

    let mut flipped = whole.clone();
    flipped[middle.ranges[0].start + 30] ^= 4;
    assert!(matches!(at(&flipped), Stop::Damaged { at, fault: Fault::Checksum { .. } } if at == middle.start));

    let mut empty = whole.clone();
    empty[offset..].fill(0);
    assert_eq!(at(&empty), Stop::EndOfLog { at: middle.start, fault: Fault::Empty });

    // A recycled segment: pages from long ago follow.
    let mut recycled = whole.clone();
    let next_page = offset.next_multiple_of(8192);
    for page in (next_page..recycled.len()).step_by(8192) {
        recycled[page + 13] ^= 1;
    }
    assert!(matches!(at(&recycled), Stop::EndOfLog { fault: Fault::Page { what: "address", .. }, .. }));

    let cut = at(&whole[..offset + 100]);
    assert_eq!(cut, Stop::EndOfLog { at: middle.start, fault: Fault::NoMoreBytes });
}

#[test]
fn pages_of_the_parent_timeline_may_come_first_but_never_again() {
    let mut log = Log::new();
    log.append(10, 0, 1, &[1; 20_000]);
    log.timeline = TimelineId(2);
    let last = log.append(10, 0, 1, &[1; 20_000]);
    let bytes = log.segments().remove(0).1;
    let child = Segment { timeline: TimelineId(2), ..log.first };
    let (records, end) = read(child, log.size, &bytes, Carry::Unknown).unwrap();
    assert_eq!((records.len(), end.valid_end), (2, last.end));

    let parent = read(log.first, log.size, &bytes, Carry::Unknown).unwrap();
    assert_eq!(parent.0.len(), 1, "the parent's segment has no pages of its child");

    log.timeline = TimelineId(1);
    log.append(10, 0, 1, &[1; 20_000]);
    let bytes = log.segments().remove(0).1;
    let (_, end) = read(child, log.size, &bytes, Carry::Unknown).unwrap();
    assert!(matches!(end.stop, Stop::EndOfLog { fault: Fault::Page { what: "timeline", .. }, .. }));
}

#[test]
fn foreign_segments_are_refused_with_what_was_found() {
    let (log, _) = log_of(&[100]);
    let (segment, bytes) = log.segments().remove(0);
    let refused = |change: &dyn Fn(&mut Vec<u8>), segment: Segment| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        read(segment, log.size, &bytes, Carry::Unknown).unwrap_err().to_string()
    };
    assert!(refused(&|bytes| bytes[0] = 0x20, segment).contains("magic number is D120, expected that of PostgreSQL 13 to 18"));
    assert!(refused(&|bytes| bytes[38] = 1, segment).contains("page size is 73728 bytes, expected 8192"));
    assert!(refused(&|bytes| bytes[34] = 0x11, segment).contains("segment size is 1114112 bytes, expected a power of two"));
    let other = SegmentReader::new(segment, SegmentSize::DEFAULT, &bytes, Carry::Unknown).err().unwrap().to_string();
    assert!(other.contains("segment size is 1048576 bytes, expected 16777216 bytes"));
    assert!(refused(&|_| (), segment.next()).contains("page address is 0/300000, expected 0/400000"));
    assert!(refused(&|bytes| bytes[4] = 9, segment).contains("timeline is 9, expected at most 1"));
    assert!(refused(&|bytes| bytes.truncate(30), segment).contains("has 30 bytes, expected 40 to 1048576"));
    assert!(refused(&|bytes| bytes.push(0), segment).contains("has 1048577 bytes"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn cutting_at_segments_changes_nothing(
        lengths in prop::collection::vec(prop_oneof![8 => 0..400_usize, 4 => 0..30_000_usize, 1 => 0..1_500_000_usize], 1..200)
    ) {
        let (log, written) = log_of(&lengths);
        let (records, ends) = read_all(&log, &log.segments());
        prop_assert_eq!(spans(&records), written_spans(&written));
        for (index, record) in records.iter().enumerate() {
            prop_assert_eq!(record.3, index as u32);
            let body = super::fixture::main_data_body(&vec![index as u8; lengths[index]]);
            prop_assert!(body.starts_with(&record.6) && (record.6.len() == body.len() || record.6.len() + 24 == 512 << 10));
        }
        let last = ends.last().unwrap();
        prop_assert_eq!(last.valid_end, written.last().unwrap().end);
    }

    #[test]
    fn a_flipped_bit_in_a_record_is_noticed(
        lengths in prop::collection::vec(0..20_000_usize, 20..120),
        which in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0..8_u8
    ) {
        let (mut log, written) = log_of(&lengths);
        let record = &written[which.index(written.len())];
        let bytes: Vec<usize> = record.ranges.iter().cloned().flatten().collect();
        log.bytes[bytes[byte.index(bytes.len())]] ^= 1 << bit;
        let segments = log.segments();
        let (mut carry, mut starts, mut stopped) = (Carry::Unknown, Vec::new(), false);
        for (segment, bytes) in &segments {
            match read(*segment, log.size, bytes, carry) {
                Ok((more, end)) => {
                    starts.extend(more.iter().map(|record| record.0));
                    stopped |= end.stop != Stop::SegmentEnd && segment != &segments.last().unwrap().0;
                    carry = end.carry;
                    if end.stop != Stop::SegmentEnd { break; }
                }
                Err(error) => { prop_assert!(error.is_carry_mismatch()); stopped = true; break; }
            }
        }
        prop_assert!(!starts.contains(&record.start), "a changed record was taken for a good one");
        let before = written.iter().filter(|other| other.start < record.start).count();
        prop_assert_eq!(starts.len(), before, "reading went on past it: {}", stopped);
    }

    #[test]
    fn malformed_bytes_never_panic(
        lengths in prop::collection::vec(0..20_000_usize, 1..80),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        near_headers in prop::collection::vec((0..128_usize, 0..48_usize, any::<u8>()), 0..20),
        cut in 0..(1_usize << 20), kind in 0..8_u8, manager in 0..2_u8
    ) {
        let mut log = Log::new();
        for (index, length) in lengths.iter().enumerate() {
            log.append_raw(manager, kind << 4 | 0x80 & (index as u8) << 7, 9, &vec![(index * 37) as u8; *length]);
        }
        let mut segments = log.segments();
        for (_, bytes) in &mut segments {
            for (at, value) in &changes { let at = at.index(bytes.len()); bytes[at] = *value; }
            for (page, at, value) in &near_headers { bytes[page * 8192 + at] = *value; }
        }
        let mut carry = Carry::Unknown;
        for (segment, bytes) in &segments {
            let mut count = 0_usize;
            let end = scan(*segment, log.size, bytes, &carry, |record, _| {
                count += 1;
                read_in_full(record);
                ControlFlow::<()>::Continue(())
            });
            prop_assert!(count <= bytes.len() / 24);
            carry = match end { Ok(ControlFlow::Continue(end)) => end.carry, _ => Carry::Unknown };
            drop(summarise(*segment, log.size, &bytes[..cut.min(bytes.len())], &Carry::Unknown));
        }
    }

    #[test]
    fn noise_is_no_segment_and_no_carry(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (segment, size) = (Segment { timeline: TimelineId(1), number: 1 }, SegmentSize::DEFAULT);
        prop_assert!(summarise(segment, size, &bytes, &Carry::Unknown).is_err());
        prop_assert_eq!(Carry::from_bytes(&bytes), None);
    }

    #[test]
    fn a_changed_carry_is_refused(cut in 1..200_usize, at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let (log, _) = log_of(&[10, 1_200_000]);
        let (segment, bytes) = log.segments().remove(0);
        let (_, end) = read(segment, log.size, &bytes, Carry::Unknown).unwrap();
        let good = end.carry.to_bytes();
        prop_assert_eq!(Carry::from_bytes(&good[..good.len() - cut]), None);
        let mut flipped = good.clone();
        flipped[at.index(good.len())] ^= 1 << bit;
        prop_assert_eq!(Carry::from_bytes(&flipped), None);
    }

    #[test]
    fn any_interpreted_body_is_read_or_refused(
        body in prop::collection::vec(any::<u8>(), 0..200), info in any::<u8>(), manager in prop_oneof![0..11_u8, any::<u8>()],
        version in 13..19_u16, form in 0..3_u8, forks in prop::collection::vec(any::<u8>(), 0..3)
    ) {
        let body = match form {
            0 => body,
            1 => super::fixture::main_data_body(&body),
            _ => body_with_blocks(&forks, &body),
        };
        let record = Record {
            start: Lsn(8), end: Lsn(16), previous: Lsn(0), xid: 1, resource_manager: manager, info,
            total_length: body.len() as u32 + 24, major_version: version, body: &body,
        };
        drop(Event::decode(&record));
        read_in_full(&record);
    }
}
