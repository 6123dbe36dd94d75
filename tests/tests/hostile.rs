//! Every parser of hostile bytes survives what changes to its seeds make of them. No root, no kernel programs.

use agentnet_tests::{
    dice::{Dice, changed},
    hostile::{TARGETS, Target},
};
use rstest::rstest;

/// How many inputs each target is fed, unless [`MORE`] says otherwise: every run of the tests pays for them.
const INPUTS: u32 = 400;

/// The environment variable with another number of inputs.
const MORE: &str = "AGENTNET_HOSTILE_INPUTS";

#[rstest]
fn nothing_a_parser_is_fed_is_too_much_for_it(
    #[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)] number: usize,
) {
    let Target { name, feed, seeds } = &TARGETS[number];
    let seeds = seeds();
    assert!(seeds.iter().all(|seed| !seed.is_empty()), "{name} has an empty seed");
    feed(b"");
    for seed in &seeds {
        feed(seed);
        for length in (0..seed.len()).step_by(1 + seed.len() / 200) {
            feed(&seed[..length]);
        }
    }
    let mut dice = Dice::new();
    let inputs = std::env::var(MORE).map_or(INPUTS, |inputs| inputs.parse().expect("it is a number"));
    for _ in 0..inputs {
        let data = changed(&seeds, &mut dice);
        let fed = std::panic::catch_unwind(|| feed(&data));
        assert!(fed.is_ok(), "{name} panics on {}", data.escape_ascii());
    }
}

#[test]
fn every_target_is_tested_and_has_a_file() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the fuzz targets are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .map(|path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned())
        .collect();
    files.sort_unstable();
    let mut names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    assert_eq!((files, TARGETS.len()), (names.into_iter().map(str::to_owned).collect(), 15));
}
