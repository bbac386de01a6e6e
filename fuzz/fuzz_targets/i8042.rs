#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::devices::i8042(data));
