#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tokenwire_fuzz::chunk(input));
