//! A number that tells two requests apart.

use std::hash::{DefaultHasher, Hasher};

use serde::Serialize;

/// Hash of a request's serialised form. Only compared within one run of the server.
pub(crate) fn fingerprint(request: &impl Serialize) -> u64 {
    struct Feed(DefaultHasher);
    impl std::io::Write for Feed {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut feed = Feed(DefaultHasher::new());
    // Requests are plain data: serialising them cannot fail, and a failure would only make retries look different.
    if serde_json::to_writer(&mut feed, request).is_err() {
        feed.0.write_u8(0);
    }
    feed.0.finish()
}
