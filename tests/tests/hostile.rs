//! Every parser of hostile bytes survives what changes to its seeds make of them. No root, no kernel programs.

use agentnet_tests::hostile::{TARGETS, Target};
use rstest::rstest;

/// How many inputs each target is fed, unless [`MORE`] says otherwise: every run of the tests pays for them.
const INPUTS: u32 = 400;

/// The environment variable with another number of inputs.
const MORE: &str = "AGENTNET_HOSTILE_INPUTS";

/// xorshift64*, by Marsaglia and Vigna: the same inputs on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap_or(0) % limit.max(1)
    }
}

/// Bytes that parsers stumble over.
const ODD: [u8; 12] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff, b'.', b'%', b'\\', b'\n'];

/// Changes a few places: bits, bytes, parts cut out, doubled or taken from another seed.
fn changed(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut data = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(6) {
        let at = dice.below(data.len() + 1);
        let end = at + dice.below(data.len() - at + 1).min(64);
        match dice.below(7) {
            0 => data.truncate(at),
            1 => drop(data.drain(at..end)),
            2 => {
                let part = data[at..end].to_vec();
                data.splice(at..at, part);
            }
            3 => {
                let other = &seeds[dice.below(seeds.len())];
                let from = dice.below(other.len() + 1);
                data.splice(at.., other[from..].iter().copied());
            }
            4 => data.insert(at, ODD[dice.below(ODD.len())]),
            5 if at < data.len() => data[at] = ODD[dice.below(ODD.len())],
            _ if at < data.len() => data[at] ^= 1 << dice.below(8),
            _ => {}
        }
    }
    data
}

#[rstest]
fn nothing_a_parser_is_fed_is_too_much_for_it(
    #[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)] number: usize,
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
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
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
    assert_eq!((files, TARGETS.len()), (names.into_iter().map(str::to_owned).collect(), 14));
}
