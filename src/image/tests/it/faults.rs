//! A server that dies between any two steps, and a node that loses power there: the store is whole afterwards.
//!
//! The store is on a file system of its own, in a file. A child process does the work and aborts at the point. Then the
//! file is copied as it is: it lacks whatever was not synced, as a disk does after a loss of power, for this file system
//! writes nothing by itself for an hour. What the dead process left and what the lost power left are both looked at.
//!
//! All in a mount namespace of its own, in which this test runs itself again.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::{Images, ImagesConfig, PullRequest, RegistryConfig, VerifySummary};
use state::ImagesDb;
use storage::LayerStore;
use sys::fault::{FaultPoint, VARIABLE};
use tokio::sync::mpsc;

use crate::faulty::Faulty;
use crate::prune::docker_archive;
use crate::published::{Published, noise};

const INSIDE: &str = "PINTLE_TEST_INSIDE_MOUNT_NAMESPACE";
/// What a child does: a word, the folder of its store and the registry, by spaces.
const ORDER: &str = "PINTLE_TEST_ORDER";
const SIGABRT: i32 = 6;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    /// An image that is not there.
    Pull,
    /// An image that is there, by another name, which another image had.
    Name,
    Remove,
    /// An image one of whose layers is damaged.
    Repair,
}

impl Work {
    const ALL: [(Self, &str); 4] = [
        (Self::Pull, "pull"),
        (Self::Name, "name"),
        (Self::Remove, "remove"),
        (Self::Repair, "repair"),
    ];

    /// The work in whose course the point is reached.
    fn of(point: FaultPoint) -> Self {
        match point {
            FaultPoint::UnpackBegun
            | FaultPoint::UnpackEnded
            | FaultPoint::CommitBegun
            | FaultPoint::RecipePlaced
            | FaultPoint::LayerPlaced
            | FaultPoint::LayersSynced
            | FaultPoint::CommitUnrecorded
            | FaultPoint::CommitRecorded => Self::Pull,
            FaultPoint::NamesRecorded => Self::Name,
            FaultPoint::RemovalBegun
            | FaultPoint::RemovalRecorded
            | FaultPoint::LayersForgotten
            | FaultPoint::RecipeDiscarded
            | FaultPoint::LayerDiscarded => Self::Remove,
            FaultPoint::RepairMoved
            | FaultPoint::RepairSynced
            | FaultPoint::RepairExchanged
            | FaultPoint::RecipeExchanged
            | FaultPoint::RepairUnrecorded => Self::Repair,
        }
    }

    /// Whether the image is there after a death at the point.
    fn leaves_image(point: FaultPoint) -> bool {
        match Self::of(point) {
            Self::Pull => point == FaultPoint::CommitRecorded,
            Self::Remove => point == FaultPoint::RemovalBegun,
            Self::Name | Self::Repair => true,
        }
    }
}

fn open(folder: &Path, host: &str) -> Images {
    let root = folder.join("root");
    fs::create_dir_all(&root).unwrap();
    let mut config = ImagesConfig::new(&root);
    let plain = RegistryConfig {
        plain_http: true,
        ..RegistryConfig::default()
    };
    config.registries.insert(host.to_owned(), plain);
    let (db, contents) = ImagesDb::open(&folder.join("images.db")).unwrap();
    let layers = LayerStore::open(&root, &contents.layers).unwrap();
    Images::open(config, db, contents, layers).unwrap()
}

async fn verify(images: &Images, repair: bool) -> VerifySummary {
    let (told, mut news) = mpsc::channel(8);
    let listener = tokio::spawn(async move { while news.recv().await.is_some() {} });
    let summary = images.verify(None, repair, &told).await.unwrap();
    drop(told);
    listener.await.unwrap();
    summary
}

async fn work(images: &Images, work: Work, host: &str) {
    let pull = async |tag: &str| {
        let request = PullRequest::anonymous(format!("{host}/app:{tag}"));
        images.pull(request).await.unwrap();
    };
    match work {
        Work::Pull => pull("1").await,
        Work::Name => pull("2").await,
        Work::Remove => images.remove(&format!("{host}/app:1")).await.unwrap(),
        Work::Repair => assert_eq!(verify(images, true).await.mended, 1),
    }
}

/// Not a test of its own: what the child does.
#[tokio::test(flavor = "multi_thread")]
async fn as_a_child() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let mut words = order.split(' ');
    let mut word = || words.next().unwrap();
    let wanted = word();
    let (wanted, _) = Work::ALL
        .into_iter()
        .find(|(_, name)| *name == wanted)
        .unwrap();
    let (folder, host) = (word(), word());
    let images = open(Path::new(folder), host);
    images.sweep().await.unwrap();
    work(&images, wanted, host).await;
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A file system in a file.
struct Disk {
    file: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(folder: &Path) -> Self {
        let disk = Self {
            file: folder.join("disk"),
            at: folder.join("mounted"),
        };
        fs::create_dir(&disk.at).unwrap();
        let file = fs::File::create(&disk.file).unwrap();
        file.set_len(48 << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&disk.file));
        disk.mount();
        disk
    }

    fn mount(&self) {
        let options = "loop,commit=3600,noatime";
        run(Command::new("mount")
            .args(["-o", options])
            .args([&self.file, &self.at]));
    }

    fn unmount(&self) {
        run(Command::new("umount").arg(&self.at));
    }
}

#[test]
fn a_death_at_every_point() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        for point in FaultPoint::ALL {
            runtime.block_on(die_at(*point));
        }
        return;
    }
    run(Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "faults::a_death_at_every_point", "--nocapture"])
        .env(INSIDE, "1"));
}

async fn die_at(point: FaultPoint) {
    let image = Published::of_files(&[("a", &noise(1, 50_000)), ("b", &noise(2, 300_000))]);
    let registry = Faulty::holding(&[("1", &image), ("2", &image)], |_| None).await;
    let host = registry.host.as_str();
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    let what = Work::of(point);
    let (_, word) = Work::ALL
        .into_iter()
        .find(|(work, _)| *work == what)
        .unwrap();

    // What is there before.
    let images = open(&disk.at, host);
    images.sweep().await.unwrap();
    if what != Work::Pull {
        work(&images, Work::Pull, host).await;
    }
    if what == Work::Name {
        let other = Published::of_files(&[("other", b"1")]);
        let archive = std::io::Cursor::new(docker_archive(&other, &format!("{host}/app:2")));
        images.import(archive, &[]).await.unwrap();
    }
    if what == Work::Repair {
        let image = images.list().remove(0);
        let layer = disk.at.join("root/layers").join(image.layers[0].hex());
        fs::write(layer.join("a"), "damaged").unwrap();
    }
    close(images).await;
    run(Command::new("sync").arg("-f").arg(&disk.at));

    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::as_a_child", "--nocapture"])
        .env(ORDER, format!("{word} {} {host}", disk.at.display()))
        .env(VARIABLE, format!("{}:abort", point.name()))
        .output();
    let child = tokio::task::spawn_blocking(move || child)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        child.status.signal(),
        Some(SIGABRT),
        "{point:?} is never reached: {}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );

    let after_cut = Disk {
        file: folder.path().join("disk-after-a-cut"),
        at: disk.at.clone(),
    };
    fs::copy(&disk.file, &after_cut.file).unwrap();
    recover(&disk.at, host, point, "killed").await;
    disk.unmount();
    after_cut.mount();
    recover(&after_cut.at, host, point, "cut off").await;
    after_cut.unmount();
}

/// The images hold the database until their last task has gone.
async fn close(images: Images) {
    drop(images);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

fn count(dir: PathBuf) -> usize {
    fs::read_dir(dir).unwrap().count()
}

async fn recover(folder: &Path, host: &str, point: FaultPoint, how: &str) {
    let at = |what: &str| format!("{what}, {how} at {point:?}");
    let root = folder.join("root");
    let images = open(folder, host);
    images.sweep().await.unwrap();
    // Whoever waits for the trash thread waits for all of it.
    let settled = async || {
        for _ in 0..100 {
            if count(root.join("tmp")) == 0 && count(root.join("retired")) == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{}", at("something is left"));
    };
    settled().await;
    let found = images.list();
    // The one that had the name, of one layer.
    let others = usize::from(Work::of(point) == Work::Name);
    let expected = usize::from(Work::leaves_image(point)) + others;
    assert_eq!(found.len(), expected, "{}", at("images"));
    let layers: usize = found.iter().map(|image| image.layers.len()).sum();
    assert_eq!(count(root.join("layers")), layers, "{}", at("layers"));
    assert_eq!(count(root.join("recipes")), layers, "{}", at("recipes"));
    if layers == 0 {
        assert_eq!(images.usage().bytes, 0, "{}", at("usage"));
    }
    let summary = verify(&images, false).await;
    let may_be_damaged = u32::from(Work::of(point) == Work::Repair);
    assert_eq!(summary.layers as usize, layers, "{}", at("verified"));
    assert!(summary.damaged <= may_be_damaged, "{}", at("damaged"));

    // Once more.
    match Work::of(point) {
        Work::Repair if summary.damaged == 0 => {}
        again => work(&images, again, host).await,
    }
    settled().await;
    let expected = usize::from(Work::of(point) != Work::Remove);
    assert_eq!(
        images.list().len(),
        expected + others,
        "{}",
        at("images at last")
    );
    assert_eq!(
        count(root.join("layers")),
        2 * expected + others,
        "{}",
        at("layers at last")
    );
    assert_eq!(
        verify(&images, false).await.damaged,
        0,
        "{}",
        at("damaged at last")
    );
    close(images).await;
}
