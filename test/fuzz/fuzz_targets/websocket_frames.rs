//! Frames of WebSocket as a client of the streaming server might send them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| streaming::fuzz::websocket_frames(bytes));
