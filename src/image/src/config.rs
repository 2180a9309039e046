//! What an operator decides about images: registries, limits, time-outs, the platform. Plain values with defaults that
//! work; the binary fills them from its configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use storage::UnpackLimits;

use crate::pinned::PinnedImages;
use crate::reference::normal_host;
use crate::sources::ProxyConfig;

/// Everything that [`crate::Images`] is told at start.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// The folder whose device holds the layers; reported as the image file system's mount point.
    pub root: PathBuf,
    /// Where archives that cannot be read in place are spooled. Emptied by the layer store at every start.
    pub temp_dir: PathBuf,
    /// Settings by registry host (`docker.io`, `localhost:5000`), as it stands in references.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Which image of an index this node runs.
    pub platform: Platform,
    /// Bounds on what registries and archives may send.
    pub limits: ImageLimits,
    /// How long to wait for registries.
    pub timeouts: Timeouts,
    /// How often one request is sent before a registry counts as unavailable; at least 1.
    pub attempts: u32,
    /// How many layers download at the same time on this node.
    pub parallel_layers: usize,
    /// How many of these one pull may have, so that a large image does not starve the others.
    pub parallel_layers_per_pull: usize,
    /// Names of images that nobody may collect.
    pub pinned: Vec<PinnedImages>,
    /// Directories of other stores, from which images and layers are used that ours has not. They need not be there.
    pub additional_stores: Vec<PathBuf>,
    /// `registries.conf`, version 2. The folder of the same name with `.d` behind it belongs to it.
    pub registries_conf: PathBuf,
    /// Folders with one folder for each registry: `hosts.toml` or certificates.
    pub certs_dirs: Vec<PathBuf>,
    /// The way to registries.
    pub proxy: ProxyConfig,
    /// Where the node's own credentials are.
    pub credentials: NodeCredentialsConfig,
    /// Which images may be used at all.
    pub trust: TrustConfig,
    /// Large layers in parallel pieces.
    pub ranges: RangesConfig,
    /// Compressed layers that are not whole yet, on the disk.
    pub partial: PartialConfig,
}

/// What [`crate::Images::set_registries`] takes over while the server runs: see the fields of the same names in
/// [`ImagesConfig`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Settings by registry host.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// `registries.conf`.
    pub registries_conf: PathBuf,
    /// Folders with one folder for each registry.
    pub certs_dirs: Vec<PathBuf>,
    /// The way to registries.
    pub proxy: ProxyConfig,
}

impl ImagesConfig {
    /// Defaults, with everything under `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            temp_dir: root.join("tmp"),
            root,
            registries: BTreeMap::new(),
            platform: Platform::default(),
            limits: ImageLimits::default(),
            timeouts: Timeouts::default(),
            attempts: 4,
            parallel_layers: 6,
            parallel_layers_per_pull: 3,
            pinned: Vec::new(),
            additional_stores: Vec::new(),
            registries_conf: "/etc/containers/registries.conf".into(),
            certs_dirs: [
                "/etc/containerd/certs.d",
                "/etc/containers/certs.d",
                "/etc/docker/certs.d",
            ]
            .map(PathBuf::from)
            .into(),
            proxy: ProxyConfig::default(),
            credentials: NodeCredentialsConfig::default(),
            trust: TrustConfig::default(),
            ranges: RangesConfig::default(),
            partial: PartialConfig::default(),
        }
    }

    /// The settings of a host; hosts without an entry have the defaults.
    pub(crate) fn registry(&self, host: &str) -> RegistryConfig {
        self.registries
            .iter()
            .find(|(name, _)| normal_host(name) == host)
            .map(|(_, config)| config.clone())
            .unwrap_or_default()
    }
}

/// Where credentials are for pulls that bring none. By default nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCredentialsConfig {
    /// The node's authentication file. It need not be there.
    pub auth_file: Option<PathBuf>,
    /// The folder of the namespaces' authentication files. It need not be there.
    pub namespaced_auth_dir: Option<PathBuf>,
    /// Where `docker-credential-…` programs are; empty means the server's `PATH`.
    pub helper_dirs: Vec<PathBuf>,
}

/// Which layers are fetched in pieces, several at the same time, from registries that allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangesConfig {
    /// The least size of such a layer, compressed, in bytes.
    pub min_bytes: u64,
    /// Connections for one such layer; 1 or 0: no layer is fetched so.
    pub parallel: usize,
}

impl Default for RangesConfig {
    fn default() -> Self {
        Self {
            min_bytes: 64 << 20,
            parallel: 3,
        }
    }
}

/// What is kept of layers whose download was given up or interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialConfig {
    /// Bytes of all such layers; 0: nothing is kept.
    pub max_bytes: u64,
    /// How long a layer is kept that nobody asks for.
    pub max_age: Duration,
}

impl Default for PartialConfig {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 30,
            max_age: Duration::from_hours(24),
        }
    }
}

/// How to talk to one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Plain HTTP instead of HTTPS. Never guessed, not even for loopback hosts.
    pub plain_http: bool,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
    /// A PEM file of certificates to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// Hosts that are asked first, in this order, for what references say is at this one.
    pub mirrors: Vec<String>,
}

/// Where it is written which images may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustConfig {
    /// The node's `policy.json`, which then has to be there.
    pub policy: Option<PathBuf>,
    /// A folder of policies for namespaces, each `<namespace>.json`, that count instead of the node's.
    pub policy_dir: Option<PathBuf>,
    /// The node's policy if [`Self::policy`] names none. If it is not there, everything may be used.
    pub default_policy: PathBuf,
    /// The folder of files that tell where signatures are kept.
    pub registries_d: PathBuf,
    /// Where OpenPGP signatures are kept of which those files say nothing.
    pub lookaside: PathBuf,
}

impl Default for TrustConfig {
    /// Where containers/image has them.
    fn default() -> Self {
        Self {
            policy: None,
            policy_dir: None,
            default_policy: "/etc/containers/policy.json".into(),
            registries_d: "/etc/containers/registries.d".into(),
            lookaside: "/var/lib/containers/sigstore".into(),
        }
    }
}

/// Bounds on what comes from outside, in bytes unless they say otherwise.
#[derive(Clone, Debug)]
pub struct ImageLimits {
    /// A manifest or an index.
    pub manifest_bytes: u64,
    /// An image's configuration.
    pub config_bytes: u64,
    /// One compressed layer.
    pub layer_bytes: u64,
    /// Layers in an image: overlayfs takes 500 lower directories.
    pub layers: usize,
    /// An archive after decompression, while it has to be spooled.
    pub archive_bytes: u64,
    /// Images in one archive.
    pub archive_images: usize,
    /// Bounds of unpacking one layer.
    pub unpack: UnpackLimits,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 8 << 20,
            layer_bytes: 128 << 30,
            layers: 500,
            archive_bytes: 512 << 30,
            archive_images: 1024,
            unpack: UnpackLimits::default(),
        }
    }
}

/// How long to wait. A zero duration means for ever, never "not at all".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From sending a request to the end of the answer's headers.
    pub header: Duration,
    /// The window over which a download has to reach [`Self::stall_bytes_per_second`]. Only time spent waiting for
    /// the network counts, not time spent unpacking.
    pub stall: Duration,
    /// The least average speed of a download over the window.
    pub stall_bytes_per_second: u64,
    /// The longest wait between two attempts. A registry that asks for more is not asked again.
    pub retry_wait: Duration,
    /// For a credential helper's answer.
    pub credential_helper: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            header: Duration::from_secs(30),
            stall: Duration::from_mins(1),
            stall_bytes_per_second: 1024,
            retry_wait: Duration::from_secs(10),
            credential_helper: Duration::from_secs(30),
        }
    }
}

/// An operating system, an architecture and its variant, in the words of the OCI image index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v8`, `v7`, …; empty when the architecture has none.
    pub variant: String,
}

impl Default for Platform {
    /// The platform that this program was built for.
    fn default() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl Platform {
    /// How well an image for `offered` runs here: `None` not at all, else the higher the better.
    pub(crate) fn fitness(&self, os: &str, architecture: &str, variant: &str) -> Option<u32> {
        let (offered_architecture, offered_variant) = normal(architecture, variant);
        let (own_architecture, own_variant) = normal(&self.architecture, &self.variant);
        if !self.os.eq_ignore_ascii_case(os) || own_architecture != offered_architecture {
            return None;
        }
        // Variants of one architecture are levels: each runs the code of those below it.
        match (level(&own_variant), level(&offered_variant)) {
            (Some(own), Some(offered)) if offered <= own => Some(offered),
            (Some(_), Some(_)) => None,
            _ if own_variant == offered_variant => Some(u32::MAX),
            _ => None,
        }
    }
}

/// One spelling for architectures that images spell in several ways, with the variant that an absent one means.
fn normal(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (
        architecture.to_ascii_lowercase(),
        variant.to_ascii_lowercase(),
    );
    let (architecture, default_variant) = match architecture.as_str() {
        "amd64" | "x86_64" | "x86-64" => ("amd64", "v1"),
        "arm64" | "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", "v7"),
        "armhf" => return ("arm".to_owned(), "v7".to_owned()),
        "armel" => return ("arm".to_owned(), "v6".to_owned()),
        "i386" => ("386", "v0"),
        other => (other, "v0"),
    };
    let variant = match variant.as_str() {
        "" => default_variant.to_owned(),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => format!("v{digits}"),
        other => other.to_owned(),
    };
    (architecture.to_owned(), variant)
}

/// `v8` → 80, `v8.2` → 82.
fn level(variant: &str) -> Option<u32> {
    let (major, minor) = variant
        .strip_prefix('v')?
        .split_once('.')
        .unwrap_or((&variant[1..], "0"));
    let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
    (major < 100 && minor < 10).then_some(major * 10 + minor)
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("amd64", "", "linux", "amd64", "", true)]
    #[case("amd64", "", "linux", "x86_64", "", true)]
    #[case("amd64", "", "linux", "amd64", "v2", false)]
    #[case("amd64", "v3", "linux", "amd64", "v2", true)]
    #[case("amd64", "", "linux", "arm64", "v8", false)]
    #[case("amd64", "", "windows", "amd64", "", false)]
    #[case("amd64", "", "unknown", "unknown", "", false)]
    #[case("arm64", "v8", "linux", "arm64", "", true)]
    #[case("arm64", "v8", "linux", "aarch64", "8", true)]
    #[case("arm", "v7", "linux", "arm", "v6", true)]
    #[case("arm", "v6", "linux", "arm", "v7", false)]
    #[case("riscv64", "", "linux", "riscv64", "", true)]
    fn fits(
        #[case] own: &str,
        #[case] own_variant: &str,
        #[case] os: &str,
        #[case] architecture: &str,
        #[case] variant: &str,
        #[case] expected: bool,
    ) {
        let platform = Platform {
            os: "linux".into(),
            architecture: own.into(),
            variant: own_variant.into(),
        };
        assert_eq!(
            platform.fitness(os, architecture, variant).is_some(),
            expected
        );
    }

    #[test]
    fn the_nearest_variant_is_fittest() {
        let platform = Platform {
            os: "linux".into(),
            architecture: "arm".into(),
            variant: "v7".into(),
        };
        assert!(platform.fitness("linux", "arm", "v7") > platform.fitness("linux", "arm", "v6"));
    }

    #[test]
    fn registry_hosts_are_found_in_any_spelling() {
        let mut config = ImagesConfig::new("/x");
        let plain = RegistryConfig {
            plain_http: true,
            ..RegistryConfig::default()
        };
        config
            .registries
            .insert("LocalHost:5000".into(), plain.clone());
        assert_eq!(config.registry("localhost:5000"), plain);
        assert_eq!(config.registry("localhost:5001"), RegistryConfig::default());
    }
}
