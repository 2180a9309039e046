#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::{BinDirs, load};

struct Dirs {
    root: TempDir,
}

impl Dirs {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        for dir in ["net.d", "bin", "bin2"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        Self { root }
    }

    fn conf(&self, file: &str, network: &str, plugin: &str) {
        let json = json!({ "cniVersion": "1.0.0", "name": network, "type": plugin });
        self.write(file, &json.to_string());
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.root.path().join("net.d").join(file), text).unwrap();
    }

    fn plugin(&self, dir: &str, name: &str, mode: u32) {
        let path = self.root.path().join(dir).join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Name of the network and path of its plugin, or the message without the directory.
    fn load(&self, default_network: Option<&str>) -> Result<(String, String), String> {
        let root = self.root.path();
        let bin_dirs = BinDirs::new(vec![root.join("bin"), root.join("bin2")]);
        let relative = |text: &str| text.replace(&format!("{}/", root.display()), "");
        match load(&root.join("net.d"), default_network, &bin_dirs) {
            Ok(chain) => Ok((
                chain.conf.name.clone(),
                relative(&chain.binaries[0].to_string_lossy()),
            )),
            Err(not_ready) => Err(relative(&not_ready.message)),
        }
    }
}

fn pair(network: &str, binary: &str) -> (String, String) {
    (network.to_owned(), binary.to_owned())
}

#[test]
fn without_configuration_the_message_says_what_to_do() {
    let dirs = Dirs::new();
    let expected = Err("no CNI configuration in net.d: install a network plugin".to_owned());
    assert_eq!(dirs.load(None), expected);
    dirs.write("README", "{}");
    dirs.write(".10-x.conflist.swp", "{}");
    assert_eq!(dirs.load(None), expected);
    fs::remove_dir_all(dirs.root.path().join("net.d")).unwrap();
    assert_eq!(dirs.load(None), expected);
}

#[test]
fn the_first_valid_file_in_name_order_counts() {
    let dirs = Dirs::new();
    dirs.plugin("bin", "ptp", 0o755);
    dirs.conf("20-second.conf", "second", "ptp");
    assert_eq!(dirs.load(None).unwrap(), pair("second", "bin/ptp"));
    dirs.conf("10-first.json", "first", "ptp");
    assert_eq!(dirs.load(None).unwrap(), pair("first", "bin/ptp"));
    dirs.write("00-broken.conflist", "{");
    dirs.conf("05-lo.conf", "lo", "loopback");
    fs::create_dir(dirs.root.path().join("net.d/01-dir.conf")).unwrap();
    symlink("/dev/zero", dirs.root.path().join("net.d/02-device.conf")).unwrap();
    symlink("nowhere", dirs.root.path().join("net.d/03-dangling.conf")).unwrap();
    assert_eq!(dirs.load(None).unwrap(), pair("first", "bin/ptp"));
}

#[test]
fn what_is_wrong_with_files_before_the_chosen_one_is_kept_for_the_log() {
    let dirs = Dirs::new();
    dirs.plugin("bin", "ptp", 0o755);
    dirs.write("00-broken.conflist", "{");
    dirs.conf("10-good.conf", "good", "ptp");
    dirs.write("20-later.conflist", "{");
    let root = dirs.root.path();
    let chain = load(
        &root.join("net.d"),
        None,
        &BinDirs::new(vec![root.join("bin")]),
    )
    .unwrap();
    assert_eq!(chain.skipped.len(), 1);
    assert!(
        chain.skipped[0].contains("00-broken.conflist: EOF"),
        "{:?}",
        chain.skipped
    );
}

#[test]
fn a_named_network_is_taken_and_nothing_else() {
    let dirs = Dirs::new();
    dirs.plugin("bin", "ptp", 0o755);
    dirs.conf("10-a.conf", "a", "ptp");
    dirs.conf("20-b.conf", "b", "ptp");
    assert_eq!(dirs.load(Some("b")).unwrap(), pair("b", "bin/ptp"));
    let message = dirs.load(Some("c")).unwrap_err();
    assert_eq!(message, "network c is not configured in net.d, only a, b");
}

#[test]
fn when_no_file_is_valid_each_is_told_with_its_fault() {
    let dirs = Dirs::new();
    dirs.write("10-a.conflist", r#"{"name":"a","cniVersion":"1.0.0"}"#);
    dirs.write("20-b.conf", r#"{"name":"b","cniVersion":"1.0.0","type":7}"#);
    assert_eq!(
        dirs.load(None).unwrap_err(),
        "no usable CNI configuration in net.d: net.d/10-a.conflist: plugins: missing; \
         net.d/20-b.conf: type: expected a string, found a number"
    );
}

#[test]
fn a_missing_plugin_is_named_with_the_file_that_wants_it() {
    let dirs = Dirs::new();
    dirs.conf("10-a.conf", "a", "ptp");
    let expected = Err("plugin ptp of net.d/10-a.conf not found in bin:bin2".to_owned());
    assert_eq!(dirs.load(None), expected);
    dirs.plugin("bin", "ptp", 0o644);
    assert_eq!(dirs.load(None), expected, "not executable");
    dirs.plugin("bin2", "ptp", 0o755);
    assert_eq!(dirs.load(None).unwrap(), pair("a", "bin2/ptp"));
}

#[test]
fn a_pipe_in_the_directory_holds_nobody_up() {
    let dirs = Dirs::new();
    let pipe = dirs.root.path().join("net.d/10-pipe.conf");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let message = dirs.load(None).unwrap_err();
    assert!(
        message.ends_with("10-pipe.conf: not a regular file"),
        "{message}"
    );
}

#[test]
fn a_directory_with_a_colon_cannot_be_searched_by_plugins_and_is_left_out() {
    let dirs = BinDirs::new(vec!["/a:b".into(), "/opt/cni/bin".into()]);
    assert_eq!(Path::new(&dirs.search_path), Path::new("/opt/cni/bin"));
}
