//! Seeded randomness: every random test prints its seed, and `LIFEBOAT_TEST_SEED` repeats it.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The seed of this run: `LIFEBOAT_TEST_SEED`, or a fresh one. Printed either way.
pub fn seed(what: &str) -> u64 {
    let seed = match std::env::var("LIFEBOAT_TEST_SEED") {
        Ok(text) => text.parse().expect("LIFEBOAT_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("{what}: LIFEBOAT_TEST_SEED={seed}");
    seed
}

/// The seed of a whole run of the suite, the same in all its processes: `LIFEBOAT_TEST_SEED`, else from the runner's
/// name for the run, else a fresh one. Printed.
pub fn seed_of_run(what: &str) -> u64 {
    match (std::env::var_os("LIFEBOAT_TEST_SEED"), std::env::var("NEXTEST_RUN_ID")) {
        (None, Ok(run)) => {
            // FNV-1a: stable across processes, which a hasher with keys of its own is not.
            let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
            let seed = run.bytes().fold(0xCBF2_9CE4_8422_2325, fold);
            println!("{what}: LIFEBOAT_TEST_SEED={seed}");
            seed
        }
        _ => seed(what),
    }
}

/// A generator for one purpose within a run: the same seed and stream give the same numbers.
pub fn generator(seed: u64, stream: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
