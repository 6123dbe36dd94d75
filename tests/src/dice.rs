//! Inputs for parsers: seeds with changes that dice decide, the same on every run.

/// xorshift64*, by Marsaglia and Vigna: the same inputs on every run.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}

impl Dice {
    /// The first of the inputs.
    pub const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `limit`, or 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap_or(0) % limit.max(1)
    }
}

/// Bytes that parsers stumble over.
const ODD: [u8; 12] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff, b'.', b'%', b'\\', b'\n'];

/// One of the seeds, changed in a few places: bits, bytes, parts cut out, doubled or taken from another seed.
pub fn changed(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
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
