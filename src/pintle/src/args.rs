//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A Kubernetes container runtime: pods and containers over CRI, straight onto OCI runtimes.
#[derive(Debug, Parser)]
#[command(name = "pintle", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Configuration file; drop-ins are read from conf.d beside it [default: /etc/pintle/config.yaml].
    #[arg(long, short, value_name = "FILE", env = "PINTLE_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server.
    Serve,
    /// Print the effective configuration with its documentation.
    Config(ConfigArguments),
    /// Look whether this node can run pods, and say what would mend it.
    Check(Json),
    /// Tell what the running server is doing: pods, operations with their stage and age, pulls with their speed.
    Status(StatusArguments),
    /// Run one container in a pod of its own, show its output, and take everything down again.
    Run(Box<RunArguments>),
    /// Images: pull, list, inspect, explain, import, export, remove, prune, verify.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print versions.
    Version(Json),
}

/// The form of the output.
#[derive(Debug, Args)]
pub(crate) struct Json {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    /// Only say whether the configuration is right.
    #[arg(long)]
    pub(crate) check: bool,
    /// Print the defaults instead of what the files say.
    #[arg(long, conflicts_with = "check")]
    pub(crate) defaults: bool,
}

/// How to reach the server.
#[derive(Debug, Args)]
pub(crate) struct Connected {
    /// The server's socket [default: that of the configuration].
    #[arg(long, value_name = "PATH", env = "PINTLE_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) connected: Connected,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) connected: Connected,
    /// The image.
    pub(crate) image: String,
    /// Arguments for the image's entrypoint, or the whole command where it has none, instead of the image's own.
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
    /// When to pull the image.
    #[arg(long, value_enum, default_value_t = Pull::Missing)]
    pub(crate) pull: Pull,
    /// Set an environment variable; without a value, take it from here.
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// The pod's network: its own, or the node's.
    #[arg(long, value_enum, default_value_t = NetworkMode::Pod)]
    pub(crate) network: NetworkMode,
    /// Run as this user: a name, or numbers.
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Name of the pod and the container [default: made up].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The runtime handler [default: the server's].
    #[arg(long, value_name = "HANDLER", default_value = "")]
    pub(crate) runtime: String,
    /// Give it all that the node has.
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Mount a path of the node.
    #[arg(long, short, value_name = "NODE:CONTAINER[:ro]")]
    pub(crate) volume: Vec<String>,
    /// Working directory.
    #[arg(long, short, value_name = "PATH", default_value = "")]
    pub(crate) workdir: String,
    /// Print how long each step took, on standard error.
    #[arg(long)]
    pub(crate) timings: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    Always,
    Missing,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkMode {
    Pod,
    Host,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Load images from an archive, as `docker save` or `skopeo copy … oci-archive:` write it.
    Import {
        #[command(flatten)]
        connected: Connected,
        /// The archive; - is standard input.
        file: PathBuf,
        /// Name the image so instead of what the archive says; can be repeated.
        #[arg(long, value_name = "REFERENCE")]
        name: Vec<String>,
    },
    /// Write an image to an archive.
    Export {
        #[command(flatten)]
        connected: Connected,
        /// The image: a reference or an id.
        image: String,
        /// The archive; - is standard output.
        file: PathBuf,
        /// Its layout.
        #[arg(long, value_enum, default_value_t = Format::Oci)]
        format: Format,
    },
    /// Pull an image, and print its id. Interrupted, the pull is given up; another one goes on from there.
    Pull {
        #[command(flatten)]
        connected: Connected,
        /// The image: a reference.
        image: String,
        /// What the registry is shown: a file with one line USER:PASSWORD, an auth.json or Docker's configuration; - is standard
        /// input [default: what the node has].
        #[arg(long, value_name = "FILE")]
        creds_file: Option<PathBuf>,
        /// Show no progress.
        #[arg(long, short)]
        quiet: bool,
        /// Print progress and result as JSON, one object per line.
        #[arg(long, conflicts_with = "quiet")]
        json: bool,
    },
    /// Tell how an image would be pulled: which registries are asked, in which order, what says so, and what went wrong with
    /// each of them last. Asks none of them.
    Explain {
        #[command(flatten)]
        connected: Connected,
        /// The image, as a pod would name it.
        image: String,
        /// For pods of this namespace.
        #[arg(long, value_name = "NAME", default_value = "")]
        namespace: String,
        #[command(flatten)]
        output: Json,
    },
    /// List the images of this node: what they take on the disk, and what their removal gives back.
    List {
        #[command(flatten)]
        connected: Connected,
        #[command(flatten)]
        output: Json,
    },
    /// Tell all about an image: names, layers, disk space, containers, configuration.
    Inspect {
        #[command(flatten)]
        connected: Connected,
        /// The image: a reference or an id.
        image: String,
        #[command(flatten)]
        output: Json,
    },
    /// Remove images with all their names. Containers that use them go on.
    Remove {
        #[command(flatten)]
        connected: Connected,
        /// The images: references or ids.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Remove images that have no name, never those that are pinned or in use.
    Prune {
        #[command(flatten)]
        connected: Connected,
        /// Also those that have names.
        #[arg(long)]
        all: bool,
        /// Only show what would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: Json,
    },
    /// Make a store that others use as an additional one (`image.additional_stores`), or add to one; without a server. Prints the
    /// names of all its images.
    MakeStore {
        /// Its directory, which may be there if it is empty or such a store.
        directory: PathBuf,
        /// The images: references, to be pulled as the node pulls.
        #[arg(value_name = "IMAGE", required_unless_present = "archive")]
        images: Vec<String>,
        /// An archive, as `docker save` or `skopeo copy … oci-archive:` write it; can be repeated.
        #[arg(long, value_name = "FILE")]
        archive: Vec<PathBuf>,
    },
    /// Compare the layers on the disk with what was pulled. The exit code is 1 if some are damaged and not mended.
    Verify {
        #[command(flatten)]
        connected: Connected,
        /// The images: references or ids [default: all].
        #[arg(value_name = "IMAGE")]
        images: Vec<String>,
        /// Fetch damaged layers again. Running containers keep what they have.
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        output: Json,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Oci,
    Docker,
}
