//! The wire format: Rust types, clients and servers generated from `proto/`.
//!
//! [`cri`] is CRI v1, the API towards the kubelet; [`admin`] is what Pintle's own commands use besides. Both are
//! served on one socket by `server`, and spoken by the commands of `pintle` and by the tests. Nothing here decides
//! anything, with two exceptions: replies that are lists are [`list::Items`], which the server fills with encoded
//! messages, and values that may hold secrets do not show them in `Debug`.

#![forbid(unsafe_code)]

pub mod list;
mod secret;

pub use crate::pintle::v1 as admin;
pub use crate::runtime::v1 as cri;

/// Largest message either side sends or accepts, in bytes: what the kubelet's client is built for.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::pedantic,
    reason = "generated code"
)]
mod runtime {
    pub mod v1 {
        pub use crate::list::{
            ListContainerStatsResponse, ListContainersResponse, ListImagesResponse,
            ListPodSandboxMetricsResponse, ListPodSandboxResponse, ListPodSandboxStatsResponse,
            StreamContainerStatsResponse, StreamContainersResponse, StreamImagesResponse,
            StreamPodSandboxMetricsResponse, StreamPodSandboxStatsResponse,
            StreamPodSandboxesResponse,
        };
        tonic::include_proto!("runtime.v1");
    }
}

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::pedantic,
    reason = "generated code"
)]
mod pintle {
    pub mod v1 {
        tonic::include_proto!("pintle.v1");
    }
}
