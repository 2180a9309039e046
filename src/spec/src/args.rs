//! The command line and the working directory: what of the image the request replaces.

use std::path::PathBuf;

use crate::error::SpecError;
use crate::input::ImageProcess;
use crate::model::ContainerConfig;

/// The longest string that the kernel takes as one argument or variable (`MAX_ARG_STRLEN`, its final NUL included).
pub(crate) const MAX_STRING_BYTES: usize = 128 * 1024 - 1;

/// The command line. A command of the request replaces entrypoint *and* command of the image; arguments of the request
/// replace only the image's command.
pub(crate) fn args(
    container: &ContainerConfig,
    image: &ImageProcess,
) -> Result<Vec<String>, SpecError> {
    let (head, tail) = match (container.command.is_empty(), container.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &container.args),
        (false, _) => (&container.command, &container.args),
    };
    let args: Vec<String> = head.iter().chain(tail).cloned().collect();
    // An empty first word names no file either.
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    for (index, arg) in args.iter().enumerate() {
        let field = || format!("config.command (word {index} of the command line)");
        if arg.contains('\0') {
            return Err(SpecError::Nul { field: field() });
        }
        if arg.len() > MAX_STRING_BYTES {
            return Err(SpecError::TooLong {
                field: field(),
                bytes: arg.len(),
                limit: MAX_STRING_BYTES,
            });
        }
    }
    Ok(args)
}

/// The working directory: the request's, else the image's, else the root. Images may name one without a slash, which
/// has always been taken as below the root.
pub(crate) fn working_dir(
    container: &ContainerConfig,
    image: &ImageProcess,
) -> Result<PathBuf, SpecError> {
    let (field, path) = if container.working_dir.is_empty() {
        ("image config.WorkingDir", image.working_dir.as_str())
    } else {
        if !container.working_dir.starts_with('/') {
            return Err(SpecError::NotAbsolute {
                field: "config.working_dir".to_owned(),
                path: container.working_dir.clone(),
            });
        }
        ("config.working_dir", container.working_dir.as_str())
    };
    if path.contains('\0') {
        return Err(SpecError::Nul {
            field: field.to_owned(),
        });
    }
    Ok(PathBuf::from("/").join(path))
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[rstest]
    #[case("", "", "entry", "cmd", "entry cmd")]
    #[case("", "args", "entry", "cmd", "entry args")]
    #[case("command", "", "entry", "cmd", "command")]
    #[case("command", "args", "entry", "cmd", "command args")]
    #[case("", "", "", "cmd more", "cmd more")]
    #[case("", "", "entry -x", "", "entry -x")]
    #[case("", "args", "", "cmd", "args")]
    fn what_replaces_what(
        #[case] command: &str,
        #[case] arguments: &str,
        #[case] entrypoint: &str,
        #[case] cmd: &str,
        #[case] result: &str,
    ) {
        let container = ContainerConfig {
            command: words(command),
            args: words(arguments),
            ..ContainerConfig::default()
        };
        let image = ImageProcess {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            ..ImageProcess::default()
        };
        assert_eq!(args(&container, &image).unwrap(), words(result));
    }

    #[test]
    fn nothing_to_run_is_refused() {
        let empty = args(&ContainerConfig::default(), &ImageProcess::default());
        assert!(matches!(empty, Err(SpecError::NoCommand)));
        let blank = ContainerConfig {
            command: vec![String::new()],
            ..ContainerConfig::default()
        };
        let blank = args(&blank, &ImageProcess::default());
        assert!(matches!(blank, Err(SpecError::NoCommand)));
    }

    #[rstest]
    #[case("a\0b".to_owned(), "NUL")]
    #[case("x".repeat(200_000), "at most 131071")]
    fn what_the_kernel_cannot_take_is_refused(#[case] word: String, #[case] message: &str) {
        let container = ContainerConfig {
            command: vec!["sh".to_owned(), word],
            ..ContainerConfig::default()
        };
        let error = args(&container, &ImageProcess::default()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains("word 1"), "{error}");
    }

    #[rstest]
    #[case("", "", "/")]
    #[case("", "/app", "/app")]
    #[case("", "app", "/app")]
    #[case("/srv", "/app", "/srv")]
    fn working_directories(#[case] request: &str, #[case] image: &str, #[case] result: &str) {
        let container = ContainerConfig {
            working_dir: request.to_owned(),
            ..ContainerConfig::default()
        };
        let image = ImageProcess {
            working_dir: image.to_owned(),
            ..ImageProcess::default()
        };
        assert_eq!(
            working_dir(&container, &image).unwrap(),
            PathBuf::from(result)
        );
    }

    #[test]
    fn a_relative_working_directory_of_the_request_is_refused() {
        let container = ContainerConfig {
            working_dir: "srv".to_owned(),
            ..ContainerConfig::default()
        };
        assert!(working_dir(&container, &ImageProcess::default()).is_err());
    }
}
