#![no_main]

use agentnet_tests::hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::quic(data));
