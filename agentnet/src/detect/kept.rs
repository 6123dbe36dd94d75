//! A ledger as it is kept across restarts: a line that names format, version and checksum, and JSON.
//!
//! Nothing in it says what an agent told whom: names and secrets are hashes with keys. The keys are in it, so it is
//! for root alone. What cannot be read is an error that says why; whoever keeps it tells that and begins anew.

use super::ledger::Ledger;

/// Version of the format. Another one is not read: a ledger fills again within a day.
pub const VERSION: u32 = 1;
/// Bytes that a ledger takes at most.
pub const MAX_BYTES: usize = 256 << 10;

const MAGIC: &str = "agentnet-ledger";

/// Why what is kept is no ledger.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It is longer than any ledger.
    #[error("it is longer than {MAX_BYTES} bytes")]
    Length,
    /// It does not begin as one.
    #[error("it does not begin as a ledger")]
    Magic,
    /// Another version of agentnet wrote it.
    #[error("it is of version {0}, and this is version {VERSION}")]
    Version(u32),
    /// It was cut or changed.
    #[error("its checksum is wrong: it was cut or changed")]
    Checksum,
    /// It holds something else.
    #[error("its content is none of a ledger: {0}")]
    Content(#[from] serde_json::Error),
}

/// What is to be kept of a ledger, at most [`MAX_BYTES`].
///
/// # Errors
/// [`KeptError::Length`] never happens to a ledger of this version; [`KeptError::Content`] if it cannot be written.
pub fn encode(ledger: &Ledger) -> Result<Vec<u8>, KeptError> {
    let json = serde_json::to_vec(ledger)?;
    let mut kept = format!("{MAGIC} {VERSION} {:08x}\n", crc32fast::hash(&json)).into_bytes();
    kept.extend(json);
    if kept.len() > MAX_BYTES { Err(KeptError::Length) } else { Ok(kept) }
}

/// The ledger that was kept.
///
/// # Errors
/// Why it is none.
pub fn decode(kept: &[u8]) -> Result<Ledger, KeptError> {
    if kept.len() > MAX_BYTES {
        return Err(KeptError::Length);
    }
    let end = kept.iter().position(|&byte| byte == b'\n').ok_or(KeptError::Magic)?;
    let (head, json) = kept.split_at(end);
    let json = json.get(1..).unwrap_or_default();
    let mut words = std::str::from_utf8(head).map_err(|_| KeptError::Magic)?.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(KeptError::Magic);
    }
    let version = words.next().and_then(|word| word.parse().ok()).ok_or(KeptError::Magic)?;
    if version != VERSION {
        return Err(KeptError::Version(version));
    }
    let sum = words.next().and_then(|word| u32::from_str_radix(word, 16).ok()).ok_or(KeptError::Magic)?;
    if sum != crc32fast::hash(json) {
        return Err(KeptError::Checksum);
    }
    Ok(serde_json::from_slice(json)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{
        event::Time,
        ledger::{Entry, Keys, Lane, Span},
        lm::Bits,
    };

    const NOW: Time = Time::from_secs(1_700_000_000);

    /// One that has as much in it as fits.
    fn full() -> Ledger {
        let mut ledger = Ledger::new(Keys::new(u64::MAX - 1, u64::MAX - 2));
        for number in 0..40_000_u32 {
            let base = format!("{number}.example");
            ledger.is_new(Lane::DnsQuery, base.as_bytes(), b"www");
            let entry = Entry { bits: Bits::bytes(100_000), characters: u32::MAX, items: u32::MAX };
            ledger.enter(Lane::DnsQuery, base.as_bytes(), entry, NOW);
        }
        ledger
    }

    #[test]
    fn a_full_ledger_fits_and_comes_back_as_it_was() {
        let ledger = full();
        let kept = encode(&ledger).unwrap();
        assert!(kept.len() <= MAX_BYTES / 2, "{}", kept.len());
        let mut back = decode(&kept).unwrap();
        assert!(!back.is_new(Lane::DnsQuery, b"39999.example", b"www"));
        assert_eq!(encode(&decode(&kept).unwrap()).unwrap(), kept);
        let account = back.get(Lane::DnsQuery, b"39999.example").unwrap();
        assert_eq!(account.sums.of(Span::Day, NOW), Bits::bytes(100_000));
    }

    #[test]
    fn whatever_was_cut_or_changed_is_told() {
        let kept = encode(&full()).unwrap();
        for length in (0..kept.len()).step_by(977).chain([kept.len() - 1]) {
            assert!(decode(&kept[..length]).is_err(), "{length}");
        }
        for at in (0..kept.len()).step_by(1009) {
            let mut changed = kept.clone();
            changed[at] ^= 1;
            assert!(decode(&changed).is_err(), "{at}");
        }
    }

    #[test]
    fn other_versions_and_other_files_are_named() {
        assert!(matches!(decode(b"agentnet-ledger 2 00000000\n{}"), Err(KeptError::Version(2))));
        for other in [&b""[..], b"\n", b"{}", b"agentnet-ledger\n", b"agentnet-ledger x 0\n", b"\xff 1 0\n"] {
            assert!(matches!(decode(other), Err(KeptError::Magic)), "{other:?}");
        }
        assert!(matches!(decode(&vec![0; MAX_BYTES + 1]), Err(KeptError::Length)));
        let empty = format!("agentnet-ledger 1 {:08x}\n{{}}", crc32fast::hash(b"{}"));
        assert!(matches!(decode(empty.as_bytes()), Err(KeptError::Content(_))));
    }
}
