//! Where the runtimes differ, in one table.

use crate::RuntimeKind;

/// The peculiarities of one runtime.
#[derive(Debug)]
pub(crate) struct Quirks {
    pub(crate) kind: RuntimeKind,
    /// The program's name, and what `--version` begins with.
    pub(crate) name: &'static str,
    /// Has the subcommand `features`.
    pub(crate) features: bool,
    /// Knows the mount option `rro` since this version, for versions that do not have `features` yet.
    pub(crate) recursive_readonly_since: Option<(u32, u32)>,
    /// The init process is a process of the node: a signal to it reaches the container, and it ends with the container.
    /// Otherwise it stands for a virtual machine or a kernel in user space, which only the runtime can talk to.
    pub(crate) signals_by_pid: bool,
    /// Containers of a pod share a machine, which a sandbox container has to start.
    pub(crate) sandbox_container: bool,
    /// What `update --resources` takes for standard input.
    pub(crate) stdin_path: &'static str,
    /// Writes a negative CPU quota to cgroup v1 as a huge positive number, which the kernel refuses.
    pub(crate) unsigned_quota: bool,
    /// Found unnamed when a handler without a path is called by another name; in this order.
    pub(crate) by_default: bool,
}

/// The table. `Other` is last and takes what none of the others does.
pub(crate) const TABLE: [Quirks; 6] = [
    Quirks {
        kind: RuntimeKind::Crun,
        name: "crun",
        features: true,
        recursive_readonly_since: Some((1, 4)),
        signals_by_pid: true,
        sandbox_container: false,
        stdin_path: "/dev/stdin",
        unsigned_quota: true,
        by_default: true,
    },
    Quirks {
        kind: RuntimeKind::Runc,
        name: "runc",
        features: true,
        recursive_readonly_since: None,
        signals_by_pid: true,
        sandbox_container: false,
        stdin_path: "-",
        unsigned_quota: false,
        by_default: true,
    },
    Quirks {
        kind: RuntimeKind::Youki,
        name: "youki",
        features: true,
        recursive_readonly_since: None,
        signals_by_pid: true,
        sandbox_container: false,
        stdin_path: "-",
        unsigned_quota: false,
        by_default: false,
    },
    Quirks {
        kind: RuntimeKind::Runsc,
        name: "runsc",
        features: false,
        recursive_readonly_since: None,
        signals_by_pid: false,
        sandbox_container: true,
        stdin_path: "-",
        unsigned_quota: false,
        by_default: false,
    },
    Quirks {
        kind: RuntimeKind::Kata,
        name: "kata-runtime",
        features: false,
        recursive_readonly_since: None,
        signals_by_pid: false,
        sandbox_container: true,
        stdin_path: "-",
        unsigned_quota: false,
        by_default: false,
    },
    Quirks {
        kind: RuntimeKind::Other,
        name: "",
        features: true,
        recursive_readonly_since: None,
        signals_by_pid: true,
        sandbox_container: false,
        stdin_path: "-",
        unsigned_quota: false,
        by_default: false,
    },
];

/// The row of a kind.
pub(crate) fn of(kind: RuntimeKind) -> &'static Quirks {
    let [.., other] = &TABLE;
    TABLE
        .iter()
        .find(|quirks| quirks.kind == kind)
        .unwrap_or(other)
}

/// The row that a program's name or version line belongs to.
pub(crate) fn recognise(program: &str, version: &str) -> &'static Quirks {
    let [known @ .., other] = &TABLE;
    // A name such as `crun-wasm` or `runc-1.3` says what it is; the version line decides for the rest.
    let matches = |text: &str| {
        known
            .iter()
            .find(|quirks| first_word(text) == quirks.name || text == quirks.name)
    };
    matches(program)
        .or_else(|| matches(version))
        .unwrap_or(other)
}

impl Quirks {
    /// Whether a runtime that tells no features knows `rro` all the same, by its version line.
    pub(crate) fn knows_recursive_readonly(&self, version: &str) -> bool {
        self.recursive_readonly_since
            .zip(release(version))
            .is_some_and(|(since, release)| release >= since)
    }
}

/// Major and minor number of the first word that begins like a version: `crun version 1.8.1` is 1.8.
fn release(version: &str) -> Option<(u32, u32)> {
    version.split_whitespace().find_map(|word| {
        let mut numbers = word.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        Some((major, numbers.next()?.parse().ok()?))
    })
}

fn first_word(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(text.len());
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::{of, recognise};
    use crate::RuntimeKind;

    #[test]
    fn runtimes_are_recognised() {
        for (program, version, kind) in [
            ("crun", "crun version 1.8.1", RuntimeKind::Crun),
            ("crun-wasm", "", RuntimeKind::Crun),
            ("oci", "runc version 1.1.5+ds1", RuntimeKind::Runc),
            ("runc-1.3", "", RuntimeKind::Runc),
            ("youki", "youki 0.7.0", RuntimeKind::Youki),
            ("x", "runsc version release-20240101", RuntimeKind::Runsc),
            ("kata-runtime", "kata-runtime  : 3.0", RuntimeKind::Kata),
            ("oci", "something else", RuntimeKind::Other),
            ("runcx", "", RuntimeKind::Other),
        ] {
            assert_eq!(
                recognise(program, version).kind,
                kind,
                "{program} {version}"
            );
        }
    }

    #[test]
    fn what_a_runtime_without_features_can_do_depends_on_its_version() {
        for (kind, version, knows) in [
            (RuntimeKind::Crun, "crun version 1.8.1", true),
            (RuntimeKind::Crun, "crun version 1.4", true),
            (RuntimeKind::Crun, "crun version 1.3.9", false),
            (RuntimeKind::Crun, "crun version 0.21", false),
            (RuntimeKind::Crun, "crun version 2.0-rc1", true),
            (RuntimeKind::Crun, "crun", false),
            (RuntimeKind::Crun, "crun version UNKNOWN", false),
            (RuntimeKind::Runc, "runc version 1.0.3", false),
        ] {
            assert_eq!(
                of(kind).knows_recursive_readonly(version),
                knows,
                "{version}"
            );
        }
    }
}
