//! A property for many random cases: on all processors, from one seed, shrunk where it fails.

use std::{
    env,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

/// Sets the seed: a decimal number.
const SEED_VARIABLE: &str = "AGENTNET_TEST_SEED";
const DEFAULT_SEED: u64 = 1;

/// Parts of the cases, each with random numbers of its own: the cases do not depend on the number of
/// processors.
const PARTS: u32 = 20;

fn seed() -> u64 {
    env::var(SEED_VARIABLE).map_or(DEFAULT_SEED, |text| {
        text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE} is a number, not {text:?}"))
    })
}

fn runner(seed: u64, part: u32, cases: u32) -> TestRunner {
    // Hashed, because this generator begins alike with seeds that are alike. In a build that is not
    // optimised the default one takes a tenth of the time.
    let half = |half: u8| BuildHasherDefault::<DefaultHasher>::default().hash_one((seed, part, half));
    let bytes = [half(0).to_le_bytes(), half(1).to_le_bytes()].concat();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::XorShift, &bytes))
}

/// Runs `check` on at least `cases` values of `strategy`.
pub(super) fn for_all<S: Strategy>(
    cases: u32,
    strategy: impl Fn() -> S + Sync,
    check: impl Fn(S::Value) -> Result<(), TestCaseError> + Sync,
) {
    let seed = seed();
    let next = AtomicU32::new(0);
    let work = || {
        loop {
            let part = next.fetch_add(1, Relaxed);
            if part >= PARTS {
                return Ok(());
            }
            let outcome = runner(seed, part, cases.div_ceil(PARTS)).run(&strategy(), &check);
            outcome.map_err(|failure| format!("{SEED_VARIABLE}={seed}, part {part}: {failure}"))?;
        }
    };
    println!("{SEED_VARIABLE}={seed}");
    let failures: Vec<String> = thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
