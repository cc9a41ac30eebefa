#![no_main]
#[path = "../peer.rs"]
mod peer;
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| peer::sse_peer(input));
