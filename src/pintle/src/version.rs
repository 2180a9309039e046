//! `pintle version`.

use crate::args::Json;

/// Prints versions: ours, and of the API that we serve.
pub(crate) fn print(output: &Json) {
    let version = env!("CARGO_PKG_VERSION");
    let kernel = sys::kernel::release();
    if output.json {
        let value = serde_json::json!({
            "version": version,
            "cri": CRI,
            "kernel": kernel,
            "architecture": std::env::consts::ARCH,
        });
        println!("{value:#}");
    } else {
        println!("pintle {version}");
        println!("cri    {CRI}");
        println!("kernel {kernel} {}", std::env::consts::ARCH);
    }
}

/// The version of the API.
const CRI: &str = "v1";
