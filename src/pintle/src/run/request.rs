//! From the arguments of `pintle run` to CRI messages. Pure.

use std::{collections::BTreeMap, ffi::OsString, os::unix::ffi::OsStringExt, path::Path};

use api::cri;

use crate::args::{NetworkMode, RunArguments};

/// The pod's namespace: no Kubernetes namespace may be called so, for it ends with a hyphen.
const NAMESPACE: &str = "pintle-run-";
/// The log file in the pod's log directory.
pub(crate) const LOG_FILE: &str = "container.log";

/// What is wrong with an argument.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgumentError {
    /// `--volume` that is none.
    #[error("--volume {0:?}: expected NODE:CONTAINER or NODE:CONTAINER:ro, both absolute paths")]
    Volume(String),
    /// `--user` that is none.
    #[error("--user {0:?}: expected a name or a number, then perhaps a colon and a group's number")]
    User(String),
    /// `--env` without a name.
    #[error("--env {0:?}: expected NAME=VALUE or NAME")]
    Env(String),
}

/// The messages of one run.
#[derive(Debug)]
pub(crate) struct Requests {
    /// The pod.
    pub(crate) pod: cri::PodSandboxConfig,
    /// Its container.
    pub(crate) container: cri::ContainerConfig,
    /// The image.
    pub(crate) image: cri::ImageSpec,
}

/// Makes the messages. `id` is new for every run, `environment` looks up variables of this process.
pub(crate) fn requests(
    arguments: &RunArguments,
    id: &str,
    logs: &Path,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Requests, ArgumentError> {
    let name = arguments.name.clone().unwrap_or(format!("run-{id}"));
    let network = match arguments.network {
        NetworkMode::Pod => cri::NamespaceMode::Pod,
        NetworkMode::Host => cri::NamespaceMode::Node,
    };
    let namespaces = cri::NamespaceOption {
        network: network.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..cri::NamespaceOption::default()
    };
    let filter = cri::SecurityProfile {
        profile_type: if arguments.privileged {
            cri::security_profile::ProfileType::Unconfined.into()
        } else {
            cri::security_profile::ProfileType::RuntimeDefault.into()
        },
        localhost_ref: String::new(),
    };
    let pod = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.clone(),
            uid: format!("run-{id}"),
            namespace: NAMESPACE.to_owned(),
            attempt: 0,
        }),
        hostname: match arguments.network {
            NetworkMode::Pod => name.clone(),
            NetworkMode::Host => String::new(),
        },
        log_directory: logs.display().to_string(),
        labels: BTreeMap::from([("pintle.run".to_owned(), name.clone())]),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces.clone()),
                privileged: arguments.privileged,
                seccomp: Some(filter.clone()),
                ..cri::LinuxSandboxSecurityContext::default()
            }),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        ..cri::PodSandboxConfig::default()
    };
    let image = cri::ImageSpec {
        image: arguments.image.clone(),
        runtime_handler: arguments.runtime.clone(),
        ..cri::ImageSpec::default()
    };
    let mut security = cri::LinuxContainerSecurityContext {
        privileged: arguments.privileged,
        namespace_options: Some(namespaces),
        seccomp: Some(filter),
        ..cri::LinuxContainerSecurityContext::default()
    };
    if !arguments.privileged {
        // CRI leaves these to the client, as the kubelet does it.
        security.masked_paths = owned(spec::paths::DEFAULT_MASKED);
        security.readonly_paths = owned(spec::paths::DEFAULT_READONLY);
    }
    if let Some(user) = &arguments.user {
        set_user(&mut security, user)?;
    }
    let container = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name, attempt: 0 }),
        image: Some(image.clone()),
        args: arguments.command.clone(),
        working_dir: arguments.workdir.clone(),
        envs: variables(&arguments.env, environment)?,
        mounts: arguments
            .volume
            .iter()
            .map(|text| volume(text))
            .collect::<Result<_, _>>()?,
        log_path: LOG_FILE.to_owned(),
        linux: Some(cri::LinuxContainerConfig {
            resources: None,
            security_context: Some(security),
        }),
        ..cri::ContainerConfig::default()
    };
    Ok(Requests {
        pod,
        container,
        image,
    })
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn variables(
    arguments: &[String],
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<cri::KeyValue>, ArgumentError> {
    let mut variables = Vec::new();
    for argument in arguments {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (argument.as_str(), environment(argument)),
        };
        if name.is_empty() {
            return Err(ArgumentError::Env(argument.clone()));
        }
        // A variable that is not set here is not set there either.
        if let Some(value) = value {
            variables.push(cri::KeyValue {
                key: name.to_owned(),
                value: value.into_vec(),
            });
        }
    }
    Ok(variables)
}

fn volume(text: &str) -> Result<cri::Mount, ArgumentError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, readonly) = match parts[..] {
        [host, container] | [host, container, "rw"] => (host, container, false),
        [host, container, "ro"] => (host, container, true),
        _ => return Err(ArgumentError::Volume(text.to_owned())),
    };
    if !host.starts_with('/') || !container.starts_with('/') {
        return Err(ArgumentError::Volume(text.to_owned()));
    }
    Ok(cri::Mount {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        readonly,
        ..cri::Mount::default()
    })
}

fn set_user(
    security: &mut cri::LinuxContainerSecurityContext,
    text: &str,
) -> Result<(), ArgumentError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let number = |text: &str| text.parse::<u32>().ok().map(i64::from);
    if user.is_empty() {
        return Err(ArgumentError::User(text.to_owned()));
    }
    match number(user) {
        Some(value) => security.run_as_user = Some(cri::Int64Value { value }),
        None => user.clone_into(&mut security.run_as_username),
    }
    if let Some(group) = group {
        let value = number(group).ok_or_else(|| ArgumentError::User(text.to_owned()))?;
        security.run_as_group = Some(cri::Int64Value { value });
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use api::cri;
    use clap::Parser;
    use rstest::rstest;

    use super::{ArgumentError, Requests, requests};
    use crate::args::{Arguments, Command};

    fn made(line: &[&str]) -> Result<Requests, ArgumentError> {
        let line = ["pintle", "run"].iter().chain(line);
        let Command::Run(arguments) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("not a run");
        };
        requests(&arguments, "abc", "/logs".as_ref(), |name| {
            (name == "SET").then(|| "here".into())
        })
    }

    fn security(requests: &Requests) -> &cri::LinuxContainerSecurityContext {
        let linux = requests.container.linux.as_ref().unwrap();
        linux.security_context.as_ref().unwrap()
    }

    #[test]
    fn a_plain_run() {
        let made = made(&["busybox", "--", "sh", "-c", "exit 3"]).unwrap();
        assert_eq!(made.container.args, ["sh", "-c", "exit 3"]);
        assert!(made.container.command.is_empty());
        assert_eq!(made.image.image, "busybox");
        assert_eq!(made.pod.hostname, "run-abc");
        assert_eq!(made.pod.log_directory, "/logs");
        let security = security(&made);
        assert!(!security.masked_paths.is_empty() && !security.readonly_paths.is_empty());
        assert_eq!(security.seccomp.as_ref().unwrap().profile_type, 0);
    }

    #[test]
    fn a_privileged_run_on_the_nodes_network() {
        let made = made(&[
            "--privileged",
            "--network",
            "host",
            "--name",
            "x",
            "busybox",
        ])
        .unwrap();
        let security = security(&made);
        assert!(security.privileged && security.masked_paths.is_empty());
        assert_eq!(made.pod.hostname, "");
        let namespaces = security.namespace_options.as_ref().unwrap();
        assert_eq!(namespaces.network(), cri::NamespaceMode::Node);
        assert_eq!(made.pod.metadata.unwrap().name, "x");
    }

    #[test]
    fn variables_come_from_the_line_or_from_here() {
        let made = made(&[
            "-e", "A=b=c", "-e", "SET", "-e", "UNSET", "-e", "E=", "busybox",
        ])
        .unwrap();
        let found: Vec<(&str, &[u8])> = made
            .container
            .envs
            .iter()
            .map(|entry| (entry.key.as_str(), entry.value.as_slice()))
            .collect();
        assert_eq!(
            found,
            [("A", b"b=c".as_slice()), ("SET", b"here"), ("E", b"")]
        );
    }

    #[rstest]
    #[case("1000", Some(1000), "", None)]
    #[case("1000:7", Some(1000), "", Some(7))]
    #[case("nobody", None, "nobody", None)]
    #[case("nobody:7", None, "nobody", Some(7))]
    fn users(
        #[case] text: &str,
        #[case] uid: Option<i64>,
        #[case] name: &str,
        #[case] gid: Option<i64>,
    ) {
        let made = made(&["--user", text, "busybox"]).unwrap();
        let security = security(&made);
        assert_eq!(security.run_as_user.map(|user| user.value), uid);
        assert_eq!(security.run_as_username, name);
        assert_eq!(security.run_as_group.map(|group| group.value), gid);
    }

    #[rstest]
    #[case("/a:/b", "/a", "/b", false)]
    #[case("/a:/b:rw", "/a", "/b", false)]
    #[case("/a:/b:ro", "/a", "/b", true)]
    fn volumes(
        #[case] text: &str,
        #[case] host: &str,
        #[case] container: &str,
        #[case] readonly: bool,
    ) {
        let made = made(&["-v", text, "busybox"]).unwrap();
        let mount = &made.container.mounts[0];
        assert_eq!(
            (
                mount.host_path.as_str(),
                mount.container_path.as_str(),
                mount.readonly
            ),
            (host, container, readonly)
        );
    }

    #[rstest]
    #[case(&["-v", "/a", "b"], ArgumentError::Volume("/a".into()))]
    #[case(&["-v", "a:/b", "b"], ArgumentError::Volume("a:/b".into()))]
    #[case(&["-v", "/a:/b:rx", "b"], ArgumentError::Volume("/a:/b:rx".into()))]
    #[case(&["-u", "a:b", "b"], ArgumentError::User("a:b".into()))]
    #[case(&["-u", ":1", "b"], ArgumentError::User(":1".into()))]
    #[case(&["-e", "=x", "b"], ArgumentError::Env("=x".into()))]
    fn bad_arguments_are_named(#[case] line: &[&str], #[case] expected: ArgumentError) {
        assert_eq!(made(line).unwrap_err(), expected);
    }
}
