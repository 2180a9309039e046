//! From the configuration to a server: every part is opened in the order in which they need each other.

mod apparmor;
pub(crate) mod runtimes;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use engine::{Engine, EngineConfig, EngineError, Handler, Timeouts, selinux::SelinuxConfig};
use image::{
    ImageError, ImageLimits, Images, ImagesConfig, NodeCredentialsConfig, PartialConfig,
    PinnedImages, ProxyConfig, RangesConfig, RegistryConfig, RegistrySettings,
};
use network::{Network, NetworkConfig, NetworkError};
use runtime::{FeatureSupport, RuntimeKind};
use rustix::process::Rlimit;
use server::{Server, ServerOptions};
use spec::{
    SpecDefaults,
    rlimit::RlimitKind,
    seccomp::{Profile, ProfileError},
    selinux::Guest,
};
use state::{ImagesDb, PodsDb, StateError};
use storage::{LayerStore, StorageError, UnpackLimits};
use streaming::{StreamingError, StreamingOptions, StreamingServer, TlsFiles};
use sys::{SysError, kernel::Version};

use crate::{
    config::{self, CgroupDriver, Config, SandboxKind},
    exit::in_full,
    monitor_binary::{self, NoMonitor},
};

/// mount_setattr, which recursive read-only and idmapped mounts need whatever the runtime can do.
const MOUNT_SETATTR: Version = Version {
    major: 5,
    minor: 12,
};

/// A server that is ready to serve, and what outlives it.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// Takes changes of the registries' settings.
    pub(crate) images: Images,
    /// Pods and containers; its jobs go on when the last call has ended.
    pub(crate) engine: Engine,
    /// Answers calls.
    pub(crate) server: Server,
    /// Carries the sessions that calls give URLs of.
    pub(crate) streaming: StreamingServer<Engine>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    /// A directory cannot be made.
    #[error("cannot make {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The profile of `containers.seccomp_profile` cannot be read.
    #[error("`containers.seccomp_profile`: cannot read {}", path.display())]
    ReadProfile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The profile of `containers.seccomp_profile` is none.
    #[error("`containers.seccomp_profile`: {}", path.display())]
    Profile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ProfileError,
    },
    /// pintle-monitor is nowhere.
    #[error(transparent)]
    Monitor(#[from] NoMonitor),
    /// There is no runtime for pods that name none.
    #[error(transparent)]
    Runtime(#[from] runtimes::NoDefault),
    /// The kernel does not tell something that has to be known.
    #[error(transparent)]
    System(#[from] SysError),
    /// A database cannot be opened.
    #[error(transparent)]
    State(#[from] StateError),
    /// The layers cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The images cannot be opened.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The network cannot be opened.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The streaming server cannot listen.
    #[error("`streaming`")]
    Streaming(#[from] StreamingError),
    /// What a former server left cannot be taken over.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Opens everything. `open_files` is the limit that containers get unless the configuration says otherwise.
pub(crate) async fn assemble(
    config: &Config,
    open_files: Rlimit,
) -> Result<Assembled, AssembleError> {
    // Layers hold set-uid programs of other people: nobody but root may come near them.
    make_directory(&config.root, 0o700)?;
    let monitor = monitor_binary::find(config.monitor.path.as_deref())?;
    let spec_defaults = spec_defaults(config, open_files)?;
    let probed = runtimes::probe(config).await;
    let default_handler = probed.default_handler(config)?;
    let handlers = handlers(config, probed);
    tracing::info!(handler = default_handler, "default OCI runtime");

    let (images_db, images_found) = ImagesDb::open(&config.root.join("images.db"))?;
    let store = LayerStore::open(&config.root, &images_found.layers)?;
    let images = Images::open(
        images_config(config),
        images_db,
        images_found,
        store.clone(),
    )?;
    // Before containers are taken over: layers of theirs may be there.
    images
        .set_additional_stores(config.image.additional_stores.clone())
        .await;
    let network = Network::open(NetworkConfig {
        conf_dir: config.network.cni.conf_dir.clone(),
        bin_dirs: config.network.cni.bin_dirs.clone(),
        cache_dir: config.network.cni.cache_dir.clone(),
        plugin_timeout: config.network.cni.plugin_timeout,
        default_network: config.network.default_network.clone(),
    })?;
    let (pods_db, pods_found) = PodsDb::open(&config.run.join("pods.db"))?;
    let engine_config = EngineConfig {
        run: config.run.clone(),
        // Where `ip netns` looks, whatever `run` is.
        netns_dir: "/run/netns".into(),
        monitor,
        default_cgroup_parent: config.cgroup.parent().to_owned(),
        systemd_cgroup: config.cgroup.driver == CgroupDriver::Systemd,
        monitor_cgroup: match config.cgroup.monitors {
            config::MonitorCgroup::Node => engine::MonitorCgroup::Node,
            config::MonitorCgroup::Pod => engine::MonitorCgroup::Pod,
        },
        handlers,
        default_handler,
        blockio_classes: config.containers.blockio_classes.clone(),
        cdi_dirs: config.containers.cdi_dirs.clone(),
        selinux: selinux(config),
        spec_defaults,
        timeouts: Timeouts {
            run_pod: config.timeouts.run_pod,
            create_container: config.timeouts.create_container,
            runtime_create: config.timeouts.runtime_create,
            runtime_command: config.timeouts.runtime_command,
            kill: config.timeouts.kill,
            volume_check: config.timeouts.volume_check,
            relabel: config.timeouts.relabel,
        },
    };
    let engine = Engine::open(
        engine_config,
        pods_db,
        pods_found,
        images.clone(),
        store,
        network,
    )
    .await?;
    // Only now is it known which layers the containers that were taken over hold.
    images.sweep().await?;
    let streaming = StreamingServer::bind(streaming_options(config), engine.clone()).await?;
    let options = ServerOptions {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        drain: config.timeouts.drain,
        config_json: config::to_json(config).to_string(),
    };
    Ok(Assembled {
        server: Server::new(engine.clone(), images.clone(), streaming.tickets(), options),
        streaming,
        images,
        engine,
    })
}

/// Makes a directory with those above it. One that is there keeps its mode.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<(), AssembleError> {
    let directory = |source| AssembleError::Directory {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(directory)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(directory),
    }
}

/// The usable runtimes in the words of `engine`; says which ones there are, and which ones are not offered.
pub(crate) fn handlers(config: &Config, probed: runtimes::Probed) -> Vec<Handler> {
    for (handler, error) in &probed.unusable {
        tracing::warn!(
            handler,
            error = in_full(error),
            "this runtime is not offered"
        );
    }
    for runtime in &probed.usable {
        tracing::info!(
            handler = runtime.name(),
            version = runtime.version(),
            path = %runtime.path().display(),
            "OCI runtime"
        );
    }
    probed
        .usable
        .into_iter()
        .map(|runtime| handler(config, runtime))
        .collect()
}

fn handler(config: &Config, runtime: runtime::OciRuntime) -> Handler {
    let wanted = config
        .runtimes
        .get(runtime.name())
        .map(|runtime| runtime.sandbox);
    let kernel_can = sys::kernel::version() >= MOUNT_SETATTR;
    Handler {
        name: runtime.name().to_owned(),
        features: spec::RuntimeFeatures {
            recursive_readonly_mounts: kernel_can && runtime.features().recursive_readonly,
            idmapped_mounts: kernel_can && runtime.features().idmap_mounts,
        },
        sandbox_container: wanted == Some(SandboxKind::Container)
            || runtime.needs_sandbox_container(),
        guest: match runtime.kind() {
            RuntimeKind::Kata => Guest::Machine,
            _ => Guest::Processes,
        },
        // gVisor's processes are no processes of the node, and it refuses labels for them.
        labels_processes: runtime.kind() != RuntimeKind::Runsc
            && runtime.features().selinux != FeatureSupport::No,
        runtime,
    }
}

/// What is said of SELinux in the words of `engine`.
pub(crate) fn selinux(config: &Config) -> SelinuxConfig {
    SelinuxConfig {
        enabled: config.selinux.enabled,
        categories: u16::try_from(config.selinux.category_range).unwrap_or(u16::MAX),
    }
}

/// What is said about registries in the words of `image`.
pub(crate) fn registries(config: &Config) -> RegistrySettings {
    let image = &config.image;
    RegistrySettings {
        registries: named_registries(config),
        registries_conf: image.registries_conf.clone(),
        certs_dirs: image.certs_dirs.clone(),
        proxy: ProxyConfig {
            http: image.proxy.http.0.clone(),
            https: image.proxy.https.0.clone(),
            no_proxy: image.proxy.no_proxy.clone(),
        },
    }
}

fn named_registries(config: &Config) -> BTreeMap<String, RegistryConfig> {
    config
        .image
        .registries
        .iter()
        .map(|(host, registry)| {
            let registry = RegistryConfig {
                plain_http: registry.plain_http,
                insecure_skip_verify: registry.skip_verify,
                ca: registry.ca.clone(),
                mirrors: registry
                    .mirrors
                    .iter()
                    .map(|mirror| mirror.0.clone())
                    .collect(),
            };
            (host.clone(), registry)
        })
        .collect()
}

/// Where the node's credentials are, in the words of `image`.
pub(crate) fn node_credentials(config: &Config) -> NodeCredentialsConfig {
    NodeCredentialsConfig {
        auth_file: config.image.auth_file.clone(),
        namespaced_auth_dir: config.image.namespaced_auth_dir.clone(),
        helper_dirs: Vec::new(),
    }
}

/// The names of images that nobody may collect, in the words of `image`.
pub(crate) fn pinned(config: &Config) -> Vec<PinnedImages> {
    let pinned = config.image.pinned.iter();
    pinned.map(|pattern| pattern.0.clone()).collect()
}

/// What is said about images in the words of `image`.
pub(crate) fn images_config(config: &Config) -> ImagesConfig {
    let image = &config.image;
    let usize_of =
        |number: std::num::NonZeroU32| usize::try_from(number.get()).unwrap_or(usize::MAX);
    let RegistrySettings {
        registries,
        registries_conf,
        certs_dirs,
        proxy,
    } = registries(config);
    ImagesConfig {
        registries,
        registries_conf,
        certs_dirs,
        proxy,
        limits: ImageLimits {
            manifest_bytes: image.max_manifest_size.0,
            config_bytes: image.max_config_size.0,
            layer_bytes: image.max_layer_size.0,
            unpack: UnpackLimits {
                bytes: image.max_unpacked_size.0,
                entries: image.max_layer_entries,
                ratio: image.max_compression_ratio,
                ..UnpackLimits::default()
            },
            ..ImageLimits::default()
        },
        timeouts: image::Timeouts {
            connect: image.connect_timeout,
            header: image.answer_timeout,
            stall: image.stall_timeout,
            stall_bytes_per_second: image.min_rate.0,
            credential_helper: image.credential_helper_timeout,
            ..image::Timeouts::default()
        },
        attempts: image.attempts.get(),
        parallel_layers: usize_of(image.parallel_layers),
        parallel_layers_per_pull: usize_of(image.parallel_layers_per_pull),
        pinned: pinned(config),
        additional_stores: image.additional_stores.clone(),
        credentials: node_credentials(config),
        trust: image::TrustConfig {
            policy: image.signature_policy.clone(),
            policy_dir: image.signature_policy_dir.clone(),
            ..image::TrustConfig::default()
        },
        ranges: RangesConfig {
            min_bytes: image.ranges.min_size.0,
            parallel: usize_of(image.ranges.parallel),
        },
        partial: PartialConfig {
            max_bytes: image.partial.max_size.0,
            max_age: image.partial.max_age,
        },
        ..ImagesConfig::new(&config.root)
    }
}

fn streaming_options(config: &Config) -> StreamingOptions {
    let streaming = &config.streaming;
    let tls = streaming.tls.certificate.clone();
    StreamingOptions {
        listen: streaming.listen,
        advertise: streaming.advertise.clone(),
        tls: tls
            .zip(streaming.tls.key.clone())
            .map(|(certificate, key)| TlsFiles {
                certificate,
                key,
                client_ca: streaming.tls.client_ca.clone(),
            }),
        idle: if streaming.idle_timeout.is_zero() {
            Duration::MAX
        } else {
            streaming.idle_timeout
        },
        stream_creation: streaming.creation_timeout,
    }
}

fn spec_defaults(config: &Config, open_files: Rlimit) -> Result<SpecDefaults, AssembleError> {
    let containers = &config.containers;
    let seccomp = match &containers.seccomp_profile {
        None => Profile::built_in(),
        Some(path) => {
            let json = fs::read(path).map_err(|source| AssembleError::ReadProfile {
                path: path.clone(),
                source,
            })?;
            Profile::parse(&json).map_err(|source| AssembleError::Profile {
                path: path.clone(),
                source,
            })?
        }
    };
    let limit = |kind, soft: Option<u64>, hard: Option<u64>| spec::rlimit::Rlimit {
        kind,
        soft: soft.unwrap_or(u64::MAX),
        hard: hard.unwrap_or(u64::MAX),
    };
    let mut rlimits: Vec<_> = containers
        .default_ulimits
        .0
        .iter()
        .map(|(kind, given)| limit(*kind, given.soft, given.hard))
        .collect();
    // Our own limit was raised for our own needs: programs that loop over all possible descriptors must not see it.
    if !containers
        .default_ulimits
        .0
        .contains_key(&RlimitKind::Nofile)
    {
        rlimits.push(limit(
            RlimitKind::Nofile,
            open_files.current,
            open_files.maximum,
        ));
    }
    Ok(SpecDefaults {
        capabilities: containers.default_capabilities.clone(),
        seccomp,
        apparmor: apparmor::default_profile(
            containers.apparmor_profile.as_deref(),
            apparmor::is_active(),
        ),
        sysctls: containers.default_sysctls.0.clone(),
        rlimits,
        min_memory_bytes: i64::try_from(containers.min_memory.0).unwrap_or(i64::MAX),
        annotation_prefixes: containers.runtime_annotations.clone(),
        privileged_without_host_devices: containers.privileged_without_devices,
    })
}
