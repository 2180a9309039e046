//! The AppArmor profile that containers get where AppArmor is active: ours, unless the configuration names another.
//!
//! Ours is loaded at every start, so that a new version brings its own; processes that run under it are moved over by the
//! kernel. Without `apparmor_parser`, or when the kernel does not take the profile, containers run without one, and the log
//! says so: a node that served yesterday must not stop because a package was removed.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// The name of our profile, inside the text.
const OURS: &str = "pintle-default";

/// The profile's text.
const TEXT: &str = include_str!("../../../../contrib/apparmor/pintle-default");

/// What a configuration says that wants none.
const NONE: &str = "unconfined";

/// The program that gives profiles to the kernel.
const PARSER: &str = "apparmor_parser";

/// The profile that `RuntimeDefault` stands for; `None` for none. Blocks while the profile is being loaded.
pub(super) fn default_profile(configured: Option<&str>, active: bool) -> Option<String> {
    match configured {
        Some(NONE) => None,
        Some(name) => Some(name.to_owned()),
        None if !active => None,
        None => match load() {
            Ok(()) => Some(OURS.to_owned()),
            Err(why) => {
                tracing::warn!(
                    why,
                    "the AppArmor profile {OURS} is not loaded: containers run without one; install {PARSER}, or set \
                     `containers.apparmor_profile`"
                );
                None
            }
        },
    }
}

/// Whether the kernel enforces AppArmor.
pub(super) fn is_active() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'))
}

fn load() -> Result<(), String> {
    // No cache: the file would outlive us, and compiling takes a few milliseconds.
    let mut parser = Command::new(PARSER)
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{PARSER}: {error}"))?;
    // One that ends early says why on its standard error.
    if let Some(mut stdin) = parser.stdin.take() {
        let _ = stdin.write_all(TEXT.as_bytes());
    }
    let output = parser
        .wait_with_output()
        .map_err(|error| format!("{PARSER}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{PARSER}: {}: {}", output.status, said.trim()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, false, None)]
    #[case(Some("mine"), true, Some("mine"))]
    #[case(Some("mine"), false, Some("mine"))]
    #[case(Some("unconfined"), true, None)]
    fn profiles(
        #[case] configured: Option<&str>,
        #[case] active: bool,
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(default_profile(configured, active).as_deref(), expected);
    }

    #[test]
    fn the_text_has_the_profile_and_balanced_braces() {
        assert!(TEXT.contains(&format!("\nprofile {OURS} ")));
        let code: String = TEXT
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .collect();
        assert_eq!(code.matches('{').count(), code.matches('}').count());
    }

    /// Where the compiler of profiles is installed, it has to take ours.
    #[test]
    fn the_compiler_takes_the_text() {
        let Ok(mut parser) = Command::new(PARSER)
            .args(["--skip-kernel-load", "--skip-cache"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            return;
        };
        if let Some(mut stdin) = parser.stdin.take() {
            let _ = stdin.write_all(TEXT.as_bytes());
        }
        let output = parser.wait_with_output();
        assert!(
            output.as_ref().is_ok_and(|output| output.status.success()),
            "{output:?}"
        );
    }
}
