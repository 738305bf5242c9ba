//! The part `keeper`: watches `data.db` and stores what it captures, until it is killed.
//!
//! `SQLITE_SEED` and `SQLITE_STREAM` draw its pauses and the segments that it fails to store. `status` tells until when
//! it last saw nothing new.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use lifeboat::base::ErrorKind;
use lifeboat::source::sqlite::{Options, Poll, Watch};

use super::part::setting;
use super::store;

pub fn keep_for_ever(dir: &Path) {
    let mut random = StdRng::seed_from_u64(setting::<u64>("SQLITE_SEED") ^ setting::<u64>("SQLITE_STREAM") << 20);
    let storage = dir.join("store");
    let mut limit = |choices: [u64; 3]| Some(choices[random.random_range(0..3)]);
    let options = Options {
        checkpoint_above_bytes: limit([0, 200_000, 4_000_000]),
        checkpoint_alone_above_bytes: limit([400_000, 2_000_000, 60_000_000]),
        let_go_above_bytes: limit([800_000, 20_000_000, u64::MAX]),
    };
    let mut watch = Watch::new(dir.join("data.db"), options);
    if let Some((_, last)) = store::segments(&storage).last() {
        watch.resume(last.to);
    }
    let pause = random.random_range(1..40);
    let mut seen_counter = None;
    loop {
        // Errors while files come and go are met again, or not, by the next round; damage never is a passing thing.
        if let Err(error) = round(dir, &storage, &mut watch, &mut random, &mut seen_counter) {
            assert!(error.kind() != ErrorKind::Damaged, "{error:?}");
            fs::write(dir.join("last-error"), format!("{error:?}")).unwrap();
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..2 * pause)));
    }
}

fn round(
    dir: &Path,
    storage: &Path,
    watch: &mut Watch,
    random: &mut StdRng,
    seen_counter: &mut Option<u32>,
) -> lifeboat::base::Result<()> {
    let poll = watch.poll()?;
    let fails = random.random_bool(0.05);
    match poll {
        Poll::Batch(batch) if !fails => {
            store::put_batch(storage, watch, &batch)?;
            watch.stored(&batch.to);
        }
        Poll::SnapshotNeeded(_) if !fails => snapshot(storage, watch)?,
        Poll::SnapshotOnly { change_counter } if *seen_counter != Some(change_counter) => {
            snapshot(storage, watch)?;
            *seen_counter = Some(change_counter);
        }
        Poll::Unchanged { complete_at } => {
            fs::write(dir.join("status.tmp"), complete_at.unix_micros().to_string()).unwrap();
            fs::rename(dir.join("status.tmp"), dir.join("status")).unwrap();
        }
        _ => {}
    }
    watch.maintain()
}

fn snapshot(storage: &Path, watch: &mut Watch) -> lifeboat::base::Result<()> {
    let snapshot = watch.snapshot()?;
    store::put_snapshot(storage, watch, &snapshot)?;
    watch.stored(&snapshot.moment);
    Ok(())
}
