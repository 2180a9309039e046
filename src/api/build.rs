//! Generates the Rust types of `proto/` without needing `protoc` on the machine.

use std::error::Error;
use std::path::Path;

/// Messages that hold nothing but `repeated X … = 1`: all of them are `crate::list::Items<X>`.
const LISTS: [&str; 12] = [
    "ListPodSandboxResponse",
    "StreamPodSandboxesResponse",
    "ListPodSandboxStatsResponse",
    "StreamPodSandboxStatsResponse",
    "ListContainersResponse",
    "StreamContainersResponse",
    "ListContainerStatsResponse",
    "StreamContainerStatsResponse",
    "ListImagesResponse",
    "StreamImagesResponse",
    "ListPodSandboxMetricsResponse",
    "StreamPodSandboxMetricsResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    let proto = Path::new("../../proto");
    let files = ["cri/v1/api.proto", "pintle/v1/admin.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={}", proto.join(file).display());
    }
    let descriptors = protox::compile(files, [proto])?;
    let mut build = tonic_prost_build::configure()
        // Maps move between messages and domain values without rehashing, and encode the same every time.
        .btree_map(".")
        // Their Debug is written by hand in src/secret.rs.
        .skip_debug([".runtime.v1.AuthConfig", ".runtime.v1.KeyValue"])
        .bytes(".pintle.v1")
        .emit_rerun_if_changed(false);
    for list in LISTS {
        build = build.extern_path(
            format!(".runtime.v1.{list}"),
            format!("crate::list::{list}"),
        );
    }
    build.compile_fds(descriptors)?;
    Ok(())
}
