//! The plugins of a CNI chain, executed as libcni would: one after the other, each with the result of the one before.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::samples::Steps;

/// A chain.
#[derive(Debug)]
pub(super) struct Chain(Vec<Plugin>);

#[derive(Debug)]
struct Plugin {
    kind: String,
    conf: Value,
}

/// A pod that the chain was added to.
#[derive(Debug)]
pub(super) struct Pod {
    id: String,
    netns: PathBuf,
    result: Value,
}

impl Chain {
    /// From a conflist.
    pub(super) fn new(conflist: &Value) -> Result<Self> {
        let plugins = conflist["plugins"]
            .as_array()
            .context("a conflist without plugins")?;
        let chain = plugins.iter().map(|plugin| {
            let mut conf = plugin.clone();
            conf["name"] = conflist["name"].clone();
            conf["cniVersion"] = conflist["cniVersion"].clone();
            let kind = conf["type"].as_str().context("a plugin without a type")?;
            Ok(Plugin {
                kind: kind.to_owned(),
                conf,
            })
        });
        Ok(Self(chain.collect::<Result<_>>()?))
    }

    /// Attaches a pod.
    pub(super) fn add(&self, id: &str, netns: &Path, steps: &mut Steps) -> Result<Pod> {
        let mut pod = Pod {
            id: id.to_owned(),
            netns: netns.to_owned(),
            result: Value::Null,
        };
        for plugin in &self.0 {
            let answer =
                steps.time(&format!("{} ADD", plugin.kind), || plugin.call("ADD", &pod))?;
            pod.result = serde_json::from_slice(&answer)
                .with_context(|| format!("reading the result of {}", plugin.kind))?;
        }
        Ok(pod)
    }

    /// Detaches it.
    pub(super) fn del(&self, pod: &Pod, steps: &mut Steps) -> Result<()> {
        for plugin in self.0.iter().rev() {
            steps.time(&format!("{} DEL", plugin.kind), || plugin.call("DEL", pod))?;
        }
        Ok(())
    }
}

impl Plugin {
    fn call(&self, command: &str, pod: &Pod) -> Result<Vec<u8>> {
        let mut conf = self.conf.clone();
        if !pod.result.is_null() {
            conf["prevResult"] = pod.result.clone();
        }
        if conf["capabilities"]["portMappings"] == true {
            conf["runtimeConfig"] = json!({ "portMappings": [] });
        }
        let path = super::plugin(&self.kind);
        let mut child = Command::new(&path)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", &pod.netns)
            .env("CNI_IFNAME", "eth0")
            .env(
                "CNI_PATH",
                path.parent().context("a plugin in no directory")?,
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("running {}", path.display()))?;
        let mut input = child
            .stdin
            .take()
            .context("a child without standard input")?;
        // It fits into the pipe.
        input.write_all(&serde_json::to_vec(&conf)?)?;
        drop(input);
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{} {command}: {}: {}",
            path.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(output.stdout)
    }
}
