//! A real registry (Debian's `docker-registry`) on 127.0.0.1 inside the world, filled once per build of the suite.
//!
//! Filling it with `skopeo` takes a second or two, so its storage is kept in the target directory and served read-only by
//! every test. What it holds:
//!
//! | name | what it is |
//! | --- | --- |
//! | `busybox:latest`, `busybox:1` | busybox, one gzip layer |
//! | `tree:latest` | three layers with whiteouts, links, attributes, devices |
//! | `tree:zstd`, `tree:tar` | the same, packed otherwise |
//! | `tree:docker` | the same as Docker schema 2 |
//! | `multi:latest` | an index over two architectures |
//! | `settings:latest` | an image configuration that sets everything |
//! | `users/…:latest` | one image per kind of `User` |
//! | `artifact:latest`, `artifact:other` | OCI artifacts of files, one of which they share |
//! | `tags:1`, `tags:2`, `tags:3`, `same:latest` | one image under four names |

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    certificates::{Authority, Certified},
    images::{self, Image, Layer, PATH_ENV, Packing},
    places, settle,
    world::{make_dirs, run, write},
};

/// Where the registry listens.
pub const HOST: &str = "127.0.0.1:5000";

/// Changes with what is in the storage, so that an old one is not taken for a new one.
const STORAGE: &str = "registry-4";

/// Name of an image in the registry.
pub fn name(image: &str) -> String {
    format!("{HOST}/{image}")
}

/// A running registry. Dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    process: Child,
}

impl Registry {
    /// Starts the suite's registry, read-only, filling it first if no test has done so.
    pub async fn start() -> Result<Self> {
        let storage = filled(STORAGE, fill).await?;
        Self::serve(&storage, HOST, true).await
    }

    /// Starts a registry of the same images at another address, for whom this line of an htpasswd file (bcrypt) lets in.
    pub async fn start_guarded(host: &str, htpasswd: &str) -> Result<Self> {
        let storage = filled(STORAGE, fill).await?;
        let path = Path::new(places::SCRATCH).join("htpasswd");
        write(&path, htpasswd)?;
        let auth = json!({ "htpasswd": { "realm": "test", "path": path } });
        Self::serve_with(&storage, host, true, |settings| {
            settings["auth"] = auth;
        })
        .await
    }

    /// Starts a registry of the same images at another address, over TLS and for those only whom `clients` has certified.
    pub async fn start_for_clients(
        host: &str,
        certified: &Certified,
        clients: &Authority,
    ) -> Result<Self> {
        let storage = filled(STORAGE, fill).await?;
        let tls = json!({
            "certificate": certified.certificate,
            "key": certified.key,
            "clientcas": [clients.certificate()],
        });
        Self::serve_with(&storage, host, true, |settings| {
            settings["http"]["tls"] = tls;
        })
        .await
    }

    /// Serves a storage directory.
    pub async fn serve(storage: &Path, host: &str, read_only: bool) -> Result<Self> {
        Self::serve_with(storage, host, read_only, |_| {}).await
    }

    async fn serve_with(
        storage: &Path,
        host: &str,
        read_only: bool,
        change: impl FnOnce(&mut Value),
    ) -> Result<Self> {
        let dir = Path::new(places::SCRATCH).join("registry");
        make_dirs(&dir)?;
        let port = host.rsplit(':').next().unwrap_or_default();
        let config = dir.join(format!("{port}.yml"));
        // YAML is a superset of JSON.
        let mut settings = json!({
            "version": "0.1",
            "log": { "level": "warn", "accesslog": { "disabled": true } },
            "storage": {
                "filesystem": { "rootdirectory": storage },
                "maintenance": { "uploadpurging": { "enabled": false }, "readonly": { "enabled": read_only } },
            },
            "http": { "addr": host },
        });
        change(&mut settings);
        write(&config, serde_json::to_vec_pretty(&settings)?)?;
        let log = File::create(dir.join(format!("{port}.log"))).context("making a log file")?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting docker-registry")?;
        let registry = Self { process };
        settle::until_true("the registry listens", async || {
            Ok(tokio::net::TcpStream::connect(host).await.is_ok())
        })
        .await?;
        Ok(registry)
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended already, and either way it is gone afterwards.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A storage directory that `fill` has filled with what it pushes to [`HOST`], in this run or in one before. Others who
/// want the same wait until it is there.
pub async fn filled(storage: &str, fill: impl FnOnce() -> Result<()>) -> Result<PathBuf> {
    let cache = places::cache()?;
    let filled = cache.join(storage);
    make_dirs(places::SCRATCH)?;
    let lock = File::create(cache.join(format!("{storage}.lock"))).context("making a lock")?;
    lock.lock().context("waiting for the registry's lock")?;
    if !filled.is_dir() {
        let fresh = cache.join(format!("{storage}.being-filled"));
        // Left by a run that was ended.
        match std::fs::remove_dir_all(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("removing a half-filled registry");
            }
            _ => {}
        }
        let registry = Registry::serve(&fresh, HOST, false).await?;
        fill()?;
        drop(registry);
        std::fs::rename(&fresh, &filled).context("putting the filled registry in place")?;
    }
    Ok(filled)
}

/// Pushes an image under a name, with more of skopeo's options if wanted.
pub fn push(image: &Image, name: &str, options: &[&str]) -> Result<()> {
    let layout = tempfile::tempdir_in(places::SCRATCH)?;
    image.write_layout(layout.path())?;
    copy(layout.path(), name, options)
}

fn copy(layout: &Path, name: &str, options: &[&str]) -> Result<()> {
    let source = format!("oci:{}", layout.display());
    let target = format!("docker://{name}");
    let mut arguments = vec!["copy", "--quiet", "--dest-tls-verify=false"];
    arguments.extend_from_slice(options);
    arguments.extend([source.as_str(), target.as_str()]);
    run("skopeo", arguments)?;
    Ok(())
}

fn fill() -> Result<()> {
    let base = images::busybox()?.tar()?;
    let plain = json!({ "Env": [PATH_ENV], "Cmd": ["sh"] });
    let busybox = Image::new(std::slice::from_ref(&base), Packing::Gzip, &plain)?;
    for tag in ["latest", "1"] {
        push(&busybox, &name(&format!("busybox:{tag}")), &[])?;
    }

    let mut tree = vec![base.clone()];
    tree.extend(tree_layers()?);
    let tree_of = |packing| Image::new(&tree, packing, &plain);
    push(&tree_of(Packing::Gzip)?, &name("tree:latest"), &[])?;
    push(&tree_of(Packing::Zstd)?, &name("tree:zstd"), &[])?;
    push(&tree_of(Packing::Tar)?, &name("tree:tar"), &[])?;
    push(
        &tree_of(Packing::Gzip)?,
        &name("tree:docker"),
        &["--format", "v2s2"],
    )?;

    // Each architecture's own image says which one it is.
    let say = |architecture: &str| -> Result<Image> {
        let layer = Layer::new().file("architecture", 0o644, architecture.as_bytes())?;
        Image::new(&[base.clone(), layer.tar()?], Packing::Gzip, &plain)
    };
    let ours = say(images::architecture())?;
    let other = say("s390x")?;
    let index = images::index(&[("s390x", &other), (images::architecture(), &ours)])?;
    let layout = tempfile::tempdir_in(places::SCRATCH)?;
    images::write_layout(layout.path(), &[other, ours], &index)?;
    copy(layout.path(), &name("multi:latest"), &["--all"])?;

    push(
        &Image::new(std::slice::from_ref(&base), Packing::Gzip, &settings())?,
        &name("settings:latest"),
        &[],
    )?;
    for (repository, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-gid", "1003:1004"),
        ("username-gid", "www-data:1004"),
        ("supplementary", "app"),
        ("unknown", "nobody-has-this-name"),
    ] {
        let config = json!({ "Env": [PATH_ENV], "Cmd": ["sh"], "User": user });
        push(
            &Image::new(std::slice::from_ref(&base), Packing::Gzip, &config)?,
            &name(&format!("users/{repository}:latest")),
            &[],
        )?;
    }
    let declared = Layer::new()
        .dir("srv", 0o755)?
        .owned_dir("srv/data", 0o750, 1000, 50)?
        .owned_file("srv/data/from-image", 0o640, 1000, 50, b"from the image\n")?
        .symlink("srv/data/shadow", "/etc/shadow")?
        .symlink("srv/link", "data")?
        .symlink("srv/out", "../../../../etc")?
        .file("srv/plain", 0o644, b"a file\n")?
        .tar()?;
    let config = json!({ "Env": [PATH_ENV], "Cmd": ["sh"], "Volumes": {
        "/srv/data": {}, "/srv/fresh/made": {}, "/srv/plain": {}, "/proc": {}, "/": {},
    } });
    push(
        &Image::new(&[base.clone(), declared], Packing::Gzip, &config)?,
        &name("volumes:latest"),
        &[],
    )?;
    for (tag, files) in artifacts() {
        let name = name(&format!("artifact:{tag}"));
        push(&Image::artifact(&files)?, &name, &["--preserve-digests"])?;
    }
    let same = Layer::new().file("same-image", 0o644, b"")?.tar()?;
    let same = Image::new(&[base, same], Packing::Gzip, &plain)?;
    for tag in ["tags:1", "tags:2", "tags:3", "same:latest"] {
        push(&same, &name(tag), &[])?;
    }
    Ok(())
}

/// A tag and the files of its artifact, each with its title.
pub type Tagged = (&'static str, Vec<(&'static str, &'static [u8])>);

/// The artifacts that it holds.
pub fn artifacts() -> [Tagged; 2] {
    let weights: (_, &[u8]) = ("models/weights.bin", b"weights\n");
    let script = b"#!/bin/sh\necho ran\n";
    [
        (
            "latest",
            vec![("card.md", b"card\n"), weights, ("models/run.sh", script)],
        ),
        ("other", vec![("card.md", b"another card\n"), weights]),
    ]
}

/// Two layers on top of busybox, in which a reader of layers can get everything wrong.
fn tree_layers() -> Result<[Vec<u8>; 2]> {
    let lower = Layer::new()
        .dir("tree", 0o755)?
        .file("tree/removed", 0o644, b"lower\n")?
        .file("tree/replaced", 0o644, b"lower\n")?
        .file("tree/kept", 0o640, b"kept\n")?
        .dir("tree/hidden", 0o755)?
        .file("tree/hidden/lower", 0o644, b"lower\n")?
        .dir("tree/gone", 0o755)?
        .file("tree/gone/lower", 0o644, b"lower\n")?
        .dir("tree/becomes-file", 0o755)?
        .file("tree/becomes-file/lower", 0o644, b"lower\n")?
        .symlink("tree/link", "kept")?
        .symlink("tree/absolute", "/tree/kept")?
        .hardlink("tree/hard", "tree/kept", 0o640)?
        .owned_file("tree/owned", 0o600, 1000, 50, b"owned\n")?
        .file("tree/setuid", 0o4755, b"#!/bin/sh\n")?
        .dir("tree/sticky", 0o3775)?
        .device("tree/null", 1, 3)?
        .file_with_xattr("tree/attribute", b"attribute\n", "user.colour", b"blue")?
        .file(&format!("tree/{}", "long-".repeat(30)), 0o644, b"long\n")?
        .tar()?;
    let upper = Layer::new()
        .dir("tree", 0o755)?
        .whiteout("tree", "removed")?
        .whiteout("tree", "gone")?
        .file("tree/replaced", 0o644, b"upper\n")?
        .dir("tree/hidden", 0o755)?
        .opaque("tree/hidden")?
        .file("tree/hidden/upper", 0o644, b"upper\n")?
        .file("tree/becomes-file", 0o644, b"upper\n")?
        .tar()?;
    Ok([lower, upper])
}

/// An image configuration that sets everything a container can inherit.
fn settings() -> Value {
    json!({
        "Env": [PATH_ENV, "FROM_IMAGE=image", "OVERRIDDEN=image"],
        "Entrypoint": ["/bin/sh", "-c", "trap 'echo stopped by USR1; exit 42' USR1; echo \"$0 $*\"; env; pwd; id; while :; do sleep 0.1; done"],
        "Cmd": ["from-image"],
        "WorkingDir": "/tmp",
        "User": "app",
        "StopSignal": "SIGUSR1",
        "Volumes": { "/data": {} },
        "Labels": { "org.example.colour": "blue" },
    })
}
