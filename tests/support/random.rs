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

/// A generator for one purpose within a run: the same seed and stream give the same numbers.
pub fn generator(seed: u64, stream: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
