//! Whatever arrives, nothing panics and nothing but text comes out.

use agentnet_common::{abi::ABI_VERSION, event::VerdictEvent, user::Record, verdict::Reason};
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use super::{
    super::{learn, model::Output},
    event, later, pipeline, renderer,
};

proptest! {
    #[test]
    fn any_bytes_decode_or_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Record::decode(&bytes);
    }

    /// A record whose codes are known may hold anything else: it must be told without a panic, and whatever
    /// is told must come back from JSON.
    #[test]
    fn any_record_is_told(
        bytes in prop::collection::vec(any::<u8>(), size_of::<VerdictEvent>()),
        outcome in 1_u8..=3,
        hook in 1_u8..=6,
        reason in prop::sample::select(Reason::ALL),
        seconds in any::<i32>(),
    ) {
        let mut known = event("203.0.113.7");
        known.as_mut_bytes().copy_from_slice(&bytes);
        known.header.abi = ABI_VERSION;
        known.header.kind = 1;
        (known.outcome, known.hook, known.reason) = (outcome, hook, reason as u8);
        let decoded = Record::decode(known.as_bytes()).unwrap();
        let mut pipeline = pipeline();
        let mut outputs = pipeline.on_record(&decoded, later(i64::from(seconds)));
        let (rest, summary) = pipeline.finish(later(0));
        outputs.extend(rest);
        for output in &outputs {
            let line = renderer().line(output);
            prop_assert!(!line.chars().any(char::is_control));
            let json = serde_json::to_string(output).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Output>(&json).unwrap(), output);
        }
        let _ = renderer().summary(&summary, None);
        let learned = learn::policy(&summary);
        prop_assert!(learned.parse::<toml::Table>().is_ok(), "{}", learned);
    }
}
