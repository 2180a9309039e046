//! The monitor, driven by its real client, with real runtimes and containers.
//!
//! Needs root, busybox, and each runtime that a test names. Every test has a private mount namespace, its own monitor,
//! directory and cgroup, and checks at the end that no process and no cgroup is left.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod attach;
mod cost;
mod create;
mod exec;
mod log;
mod namespaces;
mod pause;
mod pod;
mod survival;

/// Runs each named test once with crun and once with runc.
macro_rules! with_each_runtime {
    ($($name:ident),* $(,)?) => {
        mod crun {
            $(#[tokio::test]
            async fn $name() {
                let pod = crate::pod::Pod::new("crun").await;
                super::$name(&pod).await;
                pod.finish().await;
            })*
        }
        mod runc {
            $(#[tokio::test]
            async fn $name() {
                let pod = crate::pod::Pod::new("runc").await;
                super::$name(&pod).await;
                pod.finish().await;
            })*
        }
    };
}
pub(crate) use with_each_runtime;
