//! Random histories: hundreds of seeded steps, backups of random types in between, every one of them judged.
//!
//! `LIFEBOAT_TEST_SEED` repeats a history, `LIFEBOAT_HISTORY_STEPS` sets its length.

use super::judge::Pair;
use super::stage::Stage;
use super::support::postgres::{Installation, Options};
use super::support::random;
use super::world::World;

/// Steps of one history, without `LIFEBOAT_HISTORY_STEPS`.
const STEPS: u32 = 50;
/// Steps between two backups, on average.
const STEPS_PER_BACKUP: u32 = 10;

/// One test function a major, so that they run side by side.
macro_rules! histories {
    ($($name:ident $major:literal),+) => { $( #[test] fn $name() { history($major) } )+ };
}

histories!(pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18);

/// Data checksums and `wal_log_hints`, each on and off: by the run's seed every major sees another pair, and the majors
/// of one run see all four.
fn settings(major: u32, seed: u64) -> Options {
    let pair = seed.wrapping_add(u64::from(major)) % 4;
    let (checksums, hints) = (pair & 1 == 1, if pair & 2 == 2 { "on" } else { "off" });
    let (seed, autovacuum) = (seed >> 2, if (seed >> 2) % 4 == u64::from(major) % 4 { "on" } else { "off" });
    let segment = [2, 4, 8][((seed + u64::from(major)) % 3) as usize];
    println!("data checksums {checksums}, wal_log_hints {hints}, autovacuum {autovacuum}, segments of {segment} MiB");
    Options { checksums, wal_segment_mib: segment, config: Vec::new() }
        .with(format!("wal_log_hints = {hints}"))
        .with(format!("autovacuum = {autovacuum}"))
        .with("autovacuum_naptime = 1s")
        .with("checkpoint_timeout = 30s")
}

fn history(major: u32) {
    let Some(installation) = Installation::require(major) else { return };
    let seed = random::seed_of_run("history");
    let steps =
        std::env::var("LIFEBOAT_HISTORY_STEPS").map_or(STEPS, |text| text.parse().expect("LIFEBOAT_HISTORY_STEPS is a number"));
    let mut stage = Stage::start(&installation, &settings(major, seed));
    let mut world = World::create(&mut stage, seed);
    let mut pairs = vec![Pair::quiet(&stage, "full")];
    for step in 1..=steps {
        world.step(&mut stage);
        if world.dice(STEPS_PER_BACKUP) == 0 || step == steps {
            let kind = ["incr", "incr", "incr", "incr", "diff", "diff", "full"][world.dice(7) as usize];
            let pair = if world.dice(5) < 3 {
                Pair::quiet(&stage, kind)
            } else {
                Pair::under_load(&stage, kind, &world.tables(), seed.wrapping_add(u64::from(step)))
            };
            pairs.push(pair);
        }
    }
    println!("{steps} steps, {} backups: {:?}", pairs.len(), world.tally());
    pairs.iter().for_each(|pair| pair.judge(&stage));
}
