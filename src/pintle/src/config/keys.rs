//! Every key of the configuration: name, type, default, documentation. Nothing else declares a key.
//!
//! Keys marked `@live` are taken over by a running server on SIGHUP.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use spec::{Capability, rlimit::RlimitKind};
use storage::UnpackLimits;
use tracing_subscriber::filter::Targets;

use super::{
    node::Value,
    proxy::ProxyAddress,
    scalars::{ByteSize, Limit, Pinned, RegistryHost, Table, words},
    setting::{Named, Scalar, scalar_settings, section},
};

section! {
    /// The whole configuration.
    pub(crate) struct Config {
        /// Where images and the containers' writable layers are kept. Needs a filesystem that overlayfs can use as its
        /// upper layer (ext4, xfs with ftype=1, btrfs).
        root: PathBuf = "/var/lib/pintle".into(),
        /// Where the state of running pods is kept. Must vanish with a reboot, so: a tmpfs.
        run: PathBuf = "/run/pintle".into(),
        /// The Unix socket of the CRI. Null: pintle.sock below `run`. Not used when systemd hands over a socket.
        socket: Option<PathBuf> = None,
        /// What the server says, on standard error.
        log: Log = Log::default(),
        /// The runtime of pods that name none. Null: crun if it is installed, else runc, else the first one found.
        default_runtime: Option<String> = None,
        /// OCI runtimes by the name under which a RuntimeClass asks for them ("handler"). crun and runc are always known;
        /// one that is not installed is not offered. Null takes one out: `runc: null`. A running server takes over additions only.
        @live runtimes: BTreeMap<String, Runtime> = built_in_runtimes(),
        /// Control groups of the containers.
        cgroup: Cgroup = Cgroup::default(),
        /// The pods' network.
        network: Network = Network::default(),
        /// Live sessions with containers: exec, attach and port-forward.
        streaming: Streaming = Streaming::default(),
        /// Images and the registries that they come from.
        image: Image = Image::default(),
        /// What containers get when nobody asks for anything else.
        containers: Containers = Containers::default(),
        /// SELinux labels of containers, of their files and of their volumes.
        selinux: Selinux = Selinux::default(),
        /// How long an operation may take. A deadline of the client ends the client's wait, not the work; these end the work.
        timeouts: Timeouts = Timeouts::default(),
        /// pintle-monitor, the parent of a pod's containers.
        monitor: Monitor = Monitor::default(),
    }
}

section! {
    /// What the server says.
    pub(crate) struct Log {
        /// How much: error, warn, info, debug or trace; parts of the program can differ, as in `info,pintle_image=debug`.
        @live level: LogFilter = LogFilter("info".to_owned()),
        /// `text` for people, `json` for collectors (one object per line).
        format: LogFormat = LogFormat::Text,
    }
}

section! {
    /// One OCI runtime.
    pub(crate) struct Runtime {
        /// Its binary. Null: searched in PATH under the handler's name.
        path: Option<PathBuf> = None,
        /// Whose command line it understands: auto, crun, runc, youki, runsc or kata. `auto` asks the binary.
        kind: RuntimeKind = RuntimeKind::Auto,
        /// Its state directory (`--root`). Null: runtime/HANDLER below `run`.
        root: Option<PathBuf> = None,
        /// Global arguments put in front of every command.
        args: Vec<String> = Vec::new(),
        /// How a pod sandbox is made: `namespaces`, pinned without a process, or `container`, by a pause container that the
        /// runtime runs (runtimes with a virtual machine need it).
        sandbox: SandboxKind = SandboxKind::Namespaces,
    }
}

section! {
    /// Control groups.
    pub(crate) struct Cgroup {
        /// Who makes cgroups: `cgroupfs` (the runtime itself) or `systemd`. Kubelet asks for it and follows.
        driver: CgroupDriver = CgroupDriver::Cgroupfs,
        /// Parent of pods for which the client names none. With the systemd driver a slice, such as pintle.slice. Null: that one,
        /// or /pintle with the cgroupfs driver.
        parent: Option<String> = None,
        /// Where pods' monitors stand, and their memory counts: `node`, beside the pods (in system.slice, or in `monitors` below
        /// `parent`), or `pod`, in the pod's own cgroup. For pods that are made from now on.
        monitors: MonitorCgroup = MonitorCgroup::Node,
    }
}

section! {
    /// The pods' network.
    pub(crate) struct Network {
        /// Name of the network that pods join. Null: the first configuration file by name, as everywhere with CNI.
        default_network: Option<String> = None,
        /// CNI plugins and their configuration.
        cni: Cni = Cni::default(),
    }
}

section! {
    /// CNI plugins and their configuration.
    pub(crate) struct Cni {
        /// Directory of .conflist, .conf and .json files; watched for changes.
        conf_dir: PathBuf = "/etc/cni/net.d".into(),
        /// Directories of plugin binaries, searched in this order.
        bin_dirs: Vec<PathBuf> = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into(), "/usr/libexec/cni".into()],
        /// Where results are cached, in the layout that all CNI callers share.
        cache_dir: PathBuf = "/var/lib/cni".into(),
        /// How long one plugin may run.
        plugin_timeout: Duration = Duration::from_mins(1),
    }
}

section! {
    /// Live sessions with containers.
    pub(crate) struct Streaming {
        /// Address and port of the HTTP server that carries the sessions. Port 0 takes a free one. The kubelet connects from
        /// this node, so the loopback is enough.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        /// How clients reach that server if not by `listen`: scheme and authority, such as `https://node.example:10010`.
        advertise: Option<String> = None,
        /// Certificates of that server. Without one it talks plain HTTP.
        tls: StreamingTls = StreamingTls::default(),
        /// A session over which nothing flows is ended after this time. 0 means never.
        idle_timeout: Duration = Duration::from_hours(4),
        /// How long a client may take to open the streams that it asked for.
        creation_timeout: Duration = Duration::from_secs(30),
    }
}

section! {
    /// Certificates of the streaming server. All files are PEM, and are read again when they change.
    pub(crate) struct StreamingTls {
        /// Its certificate, with those that lead to the authority.
        certificate: Option<PathBuf> = None,
        /// The certificate's private key.
        key: Option<PathBuf> = None,
        /// Authorities of clients: who has no certificate of theirs is turned away. Null: whoever has a URL may come.
        client_ca: Option<PathBuf> = None,
    }
}

section! {
    /// Images and registries.
    pub(crate) struct Image {
        /// Registries by host, or host:port, that need more than HTTPS with a public certificate.
        @live registries: BTreeMap<String, Registry> = BTreeMap::new(),
        /// Mirrors, prohibitions, other locations and short names, as Podman and CRI-O read them: `registries.conf`, version 2.
        /// The files of the folder of the same name with `.d` behind it belong to it. Read again when they change.
        @live registries_conf: PathBuf = "/etc/containers/registries.conf".into(),
        /// Folders with one folder for each registry (`registry.example`, or `registry.example_5000_` for a port), which holds
        /// containerd's hosts.toml, or certificates: *.crt of authorities, *.cert with *.key of this node. Read at every pull.
        @live certs_dirs: Vec<PathBuf> = vec![
            "/etc/containerd/certs.d".into(),
            "/etc/containers/certs.d".into(),
            "/etc/docker/certs.d".into(),
        ],
        /// HTTP proxies on the way to registries.
        @live proxy: Proxies = Proxies::default(),
        /// Images that garbage collection must spare: a name (`registry.example/app:1`), the beginning of names
        /// (`registry.example/*`), or a part of names (`*pause*`). RemoveImage removes them all the same.
        @live pinned: Vec<Pinned> = Vec::new(),
        /// Other directories in which a Pintle has its images, on a read-only file system for instance. Images and layers that are
        /// there are used from there: not fetched, not removed, not counted. The server's own come first, then these in order. One
        /// that is not there (yet) is said to be missing, and looked for again.
        @live additional_stores: Vec<PathBuf> = Vec::new(),
        /// Authentication file of the node, as podman (`auth.json`) and Docker (`config.json`) have it, for pulls that bring no
        /// credentials. Read for every pull, and need not be there. Null: none.
        auth_file: Option<PathBuf> = Some("/etc/pintle/auth.json".into()),
        /// Directory of authentication files of Kubernetes namespaces, `NAMESPACE.json`. What they have for a registry comes
        /// before what `auth_file` has. Null: none.
        namespaced_auth_dir: Option<PathBuf> = Some("/etc/pintle/auth.d".into()),
        /// How long a credential helper that `auth_file` names may take. 0 means for ever.
        credential_helper_timeout: Duration = Duration::from_secs(30),
        /// The file that says which images may be used, in the form of containers-policy.json(5). Null: /etc/containers/policy.json
        /// if there is one, and if there is none, all images may be used.
        signature_policy: Option<PathBuf> = None,
        /// A folder of such files for single namespaces, `<namespace>.json`. A namespace that has one is under that alone.
        signature_policy_dir: Option<PathBuf> = None,
        /// Connections that download layers at the same time, of all images together.
        parallel_layers: NonZeroU32 = at_least_one(6),
        /// How many of these one pull may have, so that a large image does not starve the others.
        parallel_layers_per_pull: NonZeroU32 = at_least_one(3),
        /// How often one request is sent before a registry counts as unavailable.
        attempts: NonZeroU32 = at_least_one(4),
        /// How long a registry may take to accept a connection, TLS included. 0, here and below, means for ever.
        connect_timeout: Duration = Duration::from_secs(10),
        /// How long a registry may take to begin its answer.
        answer_timeout: Duration = Duration::from_secs(30),
        /// A download that over this time is slower than `min_rate` is taken up again elsewhere or given up. Only waiting
        /// for the network counts, not unpacking.
        stall_timeout: Duration = Duration::from_mins(1),
        /// The least average speed of a download, per second.
        min_rate: ByteSize = ByteSize(1 << 10),
        /// Largest manifest or index that is read.
        max_manifest_size: ByteSize = ByteSize(4 << 20),
        /// Largest image configuration that is read.
        max_config_size: ByteSize = ByteSize(8 << 20),
        /// Largest layer, compressed.
        max_layer_size: ByteSize = ByteSize(128 << 30),
        /// Largest layer, unpacked.
        max_unpacked_size: ByteSize = ByteSize(UnpackLimits::default().bytes),
        /// Most files and directories of one layer.
        max_layer_entries: u64 = UnpackLimits::default().entries,
        /// How many times larger than itself a layer over 1 GiB may unpack to.
        max_compression_ratio: u64 = UnpackLimits::default().ratio,
        /// Large layers in pieces, several at the same time.
        ranges: Ranges = Ranges::default(),
        /// What is kept of layers whose download was interrupted, to go on from there.
        partial: Partial = Partial::default(),
    }
}

section! {
    /// Layers in pieces, from registries that can send parts.
    pub(crate) struct Ranges {
        /// Smallest layer, compressed, that is fetched so.
        min_size: ByteSize = ByteSize(64 << 20),
        /// Connections for one such layer, out of `parallel_layers`, as far as no other layer wants them. 1: no layer is fetched so.
        parallel: NonZeroU32 = at_least_one(3),
    }
}

section! {
    /// Layers that are not whole yet, in `partial` below `root`.
    pub(crate) struct Partial {
        /// Most disk space of all of them. The oldest make room for new ones. 0: nothing is kept, and no layer is fetched in pieces.
        max_size: ByteSize = ByteSize(10 << 30),
        /// How long one is kept that nobody pulls.
        max_age: Duration = Duration::from_hours(24),
    }
}

section! {
    /// HTTP proxies.
    pub(crate) struct Proxies {
        /// The proxy for registries without TLS: `http://[user:password@]host:port`, `none`, or `environment` for what the
        /// server's environment says (HTTP_PROXY, ALL_PROXY). A password is not shown again.
        http: ProxyAddress = ProxyAddress::default(),
        /// The same for registries with TLS (HTTPS_PROXY, ALL_PROXY).
        https: ProxyAddress = ProxyAddress::default(),
        /// Hosts that are reached directly, parted by commas: names with all below them, addresses, networks such as 10.0.0.0/8,
        /// each with a port or without. Null: what NO_PROXY says. This machine itself is always reached directly.
        no_proxy: Option<String> = None,
    }
}

section! {
    /// One registry.
    pub(crate) struct Registry {
        /// Talk HTTP without TLS.
        plain_http: bool = false,
        /// Certificate authorities of this registry beside the system's: a PEM file.
        ca: Option<PathBuf> = None,
        /// Accept any certificate. For a laboratory only.
        skip_verify: bool = false,
        /// Hosts, or host:port, that are asked first, in this order; the registry itself stays the last resort. How to talk to a
        /// mirror stands under its own name in `registries`.
        mirrors: Vec<RegistryHost> = Vec::new(),
    }
}

section! {
    /// What containers get when nobody asks for anything else.
    pub(crate) struct Containers {
        /// Resource limits of processes by name: `nofile: 1024:1048576`, `core: 0`. What is not named is inherited.
        default_ulimits: Table<RlimitKind, Limit> = Table::default(),
        /// Sysctls of a pod's own namespaces, unless the pod sets them itself.
        default_sysctls: Table<String, String> = Table::default(),
        /// Most processes and threads of one container. Null: no limit but the pod's.
        pids_limit: Option<u64> = None,
        /// Capabilities of a container that is not privileged.
        default_capabilities: Vec<Capability> = Capability::CONTAINER_DEFAULT.to_vec(),
        /// File of the seccomp profile `RuntimeDefault`, in the form of the built-in one. Null: that one.
        seccomp_profile: Option<PathBuf> = None,
        /// Smallest memory limit that is accepted: below it, starting the container would fail in ways hard to understand.
        min_memory: ByteSize = ByteSize(6 << 20),
        /// Beginnings of names of annotations that are handed on to the OCI runtime. None by default: runtimes take orders
        /// from annotations, and pods are written by users.
        runtime_annotations: Vec<String> = Vec::new(),
        /// File of the classes of block I/O that pods ask for by annotation (`blockio.resources.beta.kubernetes.io/…`), in the
        /// YAML form that is usual for them. Null: there are none.
        blockio_classes: Option<PathBuf> = None,
        /// Directories of CDI files, which define devices by name. A device of a later directory wins over one of an earlier.
        cdi_dirs: Vec<PathBuf> = vec!["/etc/cdi".into(), "/var/run/cdi".into()],
        /// Give privileged containers only those devices of the node that they ask for.
        privileged_without_devices: bool = false,
        /// Loaded AppArmor profile that `RuntimeDefault` stands for. Null: `pintle-default`, which the server loads where
        /// AppArmor is active. `unconfined`: none.
        apparmor_profile: Option<String> = None,
    }
}

section! {
    /// SELinux.
    pub(crate) struct Selinux {
        /// Whether containers get labels. Null: where SELinux is active and its policy knows containers. `true`: the server
        /// does not start elsewhere. `false`: never. Without labels, those that pods ask for are ignored.
        enabled: Option<bool> = None,
        /// Pods that ask for no level get two categories of their own, c0 to this number less one: 1024 are enough for half a
        /// million pods.
        category_range: u32 = 1024,
    }
}

section! {
    /// How long operations may take.
    pub(crate) struct Timeouts {
        /// RunPodSandbox in all, plugins included.
        run_pod: Duration = Duration::from_secs(220),
        /// CreateContainer in all.
        create_container: Duration = Duration::from_secs(110),
        /// The `create` command of an OCI runtime.
        runtime_create: Duration = Duration::from_secs(90),
        /// Any other command of an OCI runtime: start, delete, update, state.
        runtime_command: Duration = Duration::from_mins(1),
        /// What the kernel may take to end a killed container's processes before the failure is reported.
        kill: Duration = Duration::from_secs(10),
        /// All looks of a request at paths of volumes, devices and a seccomp profile, which may be on a dead network filesystem.
        volume_check: Duration = Duration::from_secs(10),
        /// SELinux labels for one volume with all that is in it. The next try goes on where this one ended.
        relabel: Duration = Duration::from_secs(90),
        /// What requests in flight are given after SIGTERM. A second SIGTERM ends the wait.
        drain: Duration = Duration::from_secs(10),
    }
}

section! {
    /// pintle-monitor.
    pub(crate) struct Monitor {
        /// Its binary. Null: next to the pintle executable, else in PATH, else /usr/libexec/pintle/pintle-monitor.
        path: Option<PathBuf> = None,
    }
}

words! {
    /// The form of log lines.
    pub(crate) enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
    expected "`text` or `json`"
}

words! {
    /// Whose command line a runtime understands.
    pub(crate) enum RuntimeKind {
        /// Ask the binary.
        Auto = "auto",
        /// crun.
        Crun = "crun",
        /// runc.
        Runc = "runc",
        /// youki.
        Youki = "youki",
        /// gVisor.
        Runsc = "runsc",
        /// Kata Containers.
        Kata = "kata",
    }
    expected "`auto`, `crun`, `runc`, `youki`, `runsc` or `kata`"
}

words! {
    /// What holds a pod sandbox.
    pub(crate) enum SandboxKind {
        /// Pinned namespaces.
        Namespaces = "namespaces",
        /// A pause container.
        Container = "container",
    }
    expected "`namespaces` or `container`"
}

words! {
    /// Who makes cgroups.
    pub(crate) enum CgroupDriver {
        /// The runtime, by mkdir.
        Cgroupfs = "cgroupfs",
        /// systemd, over D-Bus.
        Systemd = "systemd",
    }
    expected "`cgroupfs` or `systemd`"
}

words! {
    /// Where a monitor's memory counts.
    pub(crate) enum MonitorCgroup {
        /// Beside the pods.
        Node = "node",
        /// In its pod.
        Pod = "pod",
    }
    expected "`node` or `pod`"
}

/// Log directives: a level, or levels of parts of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFilter(pub(crate) String);

impl Scalar for LogFilter {
    const EXPECTED: &'static str =
        "a level (error, warn, info, debug, trace) or a filter such as `info,pintle_image=debug`";

    fn from_value(value: &Value) -> Option<Self> {
        let Value::Text(text) = value else {
            return None;
        };
        // The filter's own parser takes any word for the name of a module: `inof` would silence everything.
        let words_are_levels = text.split(',').map(str::trim).all(|directive| {
            directive.contains('=')
                || directive
                    .parse::<tracing::level_filters::LevelFilter>()
                    .is_ok()
        });
        (words_are_levels && text.parse::<Targets>().is_ok()).then(|| Self(text.clone()))
    }

    fn to_yaml(&self) -> String {
        super::scalars::quoted(&self.0)
    }
}

scalar_settings!(LogFilter);

impl Named for Runtime {
    const EXAMPLE: &'static str = "kata";
    const BUILT_IN: &'static [&'static str] = &["crun", "runc"];
}

impl Named for Registry {
    const EXAMPLE: &'static str = "registry.example:5000";

    fn refused(name: &str) -> Option<&'static str> {
        (!image::is_registry_host(name)).then_some(RegistryHost::FORM)
    }
}

fn built_in_runtimes() -> BTreeMap<String, Runtime> {
    Runtime::BUILT_IN
        .iter()
        .map(|name| ((*name).to_owned(), Runtime::default()))
        .collect()
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

impl Cgroup {
    /// Parent of pods for which the client names none.
    pub(crate) fn parent(&self) -> &str {
        self.parent.as_deref().unwrap_or(match self.driver {
            CgroupDriver::Cgroupfs => "/pintle",
            CgroupDriver::Systemd => "pintle.slice",
        })
    }
}

impl Config {
    /// The Unix socket of the CRI.
    pub(crate) fn socket_path(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| self.run.join("pintle.sock"))
    }
}
