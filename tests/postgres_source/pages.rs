//! Page checksums: what real servers wrote is good, and a flipped bit is not.

use std::fs;

use lifeboat::source::postgres::page::{PAGE_BYTES, PageState, page_lsn, verify_page};
use lifeboat::source::{EntryKind, Fork};

use super::support::postgres::{Options, Stop};
use super::support::random;
use super::walking::walk;
use super::{cluster, each_major};
use rand::RngExt;

each_major!(real_pages_are_good_and_flipped_ones_are_not);

fn real_pages_are_good_and_flipped_ones_are_not(major: u32) {
    let Some(mut cluster) = cluster(major, &Options::default()) else { return };
    let mut sql = cluster.sql();
    sql.execute(
        "CREATE TABLE t (n int PRIMARY KEY, text text);
         INSERT INTO t SELECT n, repeat('x', n % 500) FROM generate_series(1, 20000) n;
         CREATE INDEX ON t USING gin (to_tsvector('simple', text)); CREATE INDEX ON t USING hash (n);
         CREATE INDEX ON t USING brin (n); CREATE INDEX ON t USING gist (to_tsvector('simple', text)); DELETE FROM t WHERE n % 3 = 0;
         CREATE UNLOGGED TABLE u AS SELECT 1",
    );
    sql.execute("VACUUM");
    cluster.stop(Stop::Fast);
    let mut random = random::generator(random::seed("pages"), 0);
    let (mut good, mut zero, mut flipped, mut with_lsn, mut forks) = (0, 0, 0, 0, Vec::new());
    for entry in walk(&cluster) {
        let EntryKind::Pages { first_block, fork } = entry.kind else { continue };
        if !forks.contains(&fork) {
            forks.push(fork);
        }
        let content = fs::read(&entry.location).unwrap();
        let (pages, rest) = content.as_chunks::<PAGE_BYTES>();
        assert!(rest.is_empty(), "{}", entry.path);
        for (block, page) in (first_block..).zip(pages) {
            match verify_page(page, block, true) {
                PageState::Good => good += 1,
                PageState::AllZero => {
                    zero += 1;
                    continue;
                }
                bad => panic!("{} block {block}: {bad:?}", entry.path),
            }
            with_lsn += u32::from(page_lsn(page).0 > 0);
            if random.random_ratio(1, 20) {
                let mut broken = *page;
                broken[random.random_range(0..PAGE_BYTES)] ^= 1 << random.random_range(0..8);
                assert!(verify_page(&broken, block, true).is_bad(), "{} block {block}", entry.path);
                flipped += 1;
            }
        }
    }
    println!("{good} good, {zero} zero, {flipped} flipped, {with_lsn} with an LSN");
    assert!(good > 2000 && flipped > 50 && with_lsn > 1000);
    for fork in [Fork::Main, Fork::FreeSpaceMap, Fork::VisibilityMap, Fork::Init] {
        assert!(forks.contains(&fork), "{fork:?} was never met");
    }
}
