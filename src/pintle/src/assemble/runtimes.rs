//! From the configured runtimes to those that can be used.

use runtime::{HandlerConfig, OciRuntime, RuntimeError, RuntimeKind};

use crate::config::{self, CgroupDriver, Config};

/// Preferred as the default, in this order: crun starts containers in a third of runc's time.
const PREFERRED: [&str; 2] = ["crun", "runc"];

/// The outcome of looking at every configured runtime.
#[derive(Debug)]
pub(crate) struct Probed {
    /// Those that answered, by name.
    pub(crate) usable: Vec<OciRuntime>,
    /// Those that did not, and why; built-in ones that are simply not installed are left out.
    pub(crate) unusable: Vec<(String, RuntimeError)>,
}

/// No runtime can be the default.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoDefault {
    /// None is usable at all.
    #[error("no OCI runtime can be used")]
    NoneUsable,
    /// The configured one is not among those that are.
    #[error("`default_runtime` is {name:?}, which cannot be used")]
    Unusable {
        /// The configured name.
        name: String,
    },
}

/// Asks every configured runtime what it is, all at the same time.
pub(crate) async fn probe(config: &Config) -> Probed {
    let handlers: Vec<_> = config
        .runtimes
        .iter()
        .map(|(name, runtime)| {
            let handler = handler_config(config, name, runtime);
            let quiet = *runtime == config::Runtime::default();
            let name = name.clone();
            tokio::spawn(async move { (name, quiet, OciRuntime::probe(handler).await) })
        })
        .collect();
    let mut probed = Probed {
        usable: Vec::new(),
        unusable: Vec::new(),
    };
    for handler in handlers {
        // A probe cannot be cancelled, and one that panics has said so already.
        let Ok((name, quiet, result)) = handler.await else {
            continue;
        };
        match result {
            Ok(runtime) => probed.usable.push(runtime),
            Err(RuntimeError::Missing { .. }) if quiet && PREFERRED.contains(&name.as_str()) => {
                tracing::debug!(runtime = name, "not installed");
            }
            Err(error) => probed.unusable.push((name, error)),
        }
    }
    probed
}

impl Probed {
    /// The handler of pods that name none.
    pub(crate) fn default_handler(&self, config: &Config) -> Result<String, NoDefault> {
        let usable: Vec<&str> = self.usable.iter().map(OciRuntime::name).collect();
        choose_default(config.default_runtime.as_deref(), &usable)
    }
}

fn choose_default(configured: Option<&str>, usable: &[&str]) -> Result<String, NoDefault> {
    if let Some(name) = configured {
        return if usable.contains(&name) {
            Ok(name.to_owned())
        } else {
            Err(NoDefault::Unusable {
                name: name.to_owned(),
            })
        };
    }
    PREFERRED
        .into_iter()
        .find(|name| usable.contains(name))
        .or_else(|| usable.first().copied())
        .map(str::to_owned)
        .ok_or(NoDefault::NoneUsable)
}

fn handler_config(config: &Config, name: &str, runtime: &config::Runtime) -> HandlerConfig {
    HandlerConfig {
        name: name.to_owned(),
        path: runtime.path.clone(),
        kind: match runtime.kind {
            config::RuntimeKind::Auto => RuntimeKind::Auto,
            config::RuntimeKind::Crun => RuntimeKind::Crun,
            config::RuntimeKind::Runc => RuntimeKind::Runc,
            config::RuntimeKind::Youki => RuntimeKind::Youki,
            config::RuntimeKind::Runsc => RuntimeKind::Runsc,
            config::RuntimeKind::Kata => RuntimeKind::Kata,
        },
        root: runtime
            .root
            .clone()
            .unwrap_or_else(|| config.run.join("runtime").join(name)),
        args: runtime.args.clone(),
        systemd_cgroup: config.cgroup.driver == CgroupDriver::Systemd,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::choose_default;

    #[rstest]
    #[case(None, &["crun", "runc"], Ok("crun"))]
    #[case(None, &["runc", "youki"], Ok("runc"))]
    #[case(None, &["kata"], Ok("kata"))]
    #[case(None, &[], Err("no OCI runtime can be used"))]
    #[case(Some("runc"), &["crun", "runc"], Ok("runc"))]
    #[case(Some("kata"), &["crun"], Err("`default_runtime` is \"kata\", which cannot be used"))]
    fn defaults(
        #[case] configured: Option<&str>,
        #[case] usable: &[&str],
        #[case] expected: Result<&str, &str>,
    ) {
        let found = choose_default(configured, usable).map_err(|error| error.to_string());
        assert_eq!(found.as_deref(), expected.map_err(str::to_owned).as_deref());
    }
}
