//! What a run found out; `results.json` is this.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    machine::Machine,
    options::{Options, Who},
    samples::{Steps, Summary},
};

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    /// Where.
    pub(crate) machine: Machine,
    /// Whether the network masquerades.
    pub(crate) masquerade: bool,
    /// Lives of pods, one entry for each contender.
    pub(crate) lives: Vec<Life>,
    /// Memory of the servers.
    pub(crate) memory: Vec<Memory>,
    /// Lists.
    pub(crate) lists: Vec<List>,
    /// Statistics.
    pub(crate) stats: Vec<Stats>,
    /// Pulls.
    pub(crate) pulls: Vec<Pull>,
}

impl Results {
    /// None yet.
    pub(crate) fn new(machine: Machine, options: &Options) -> Self {
        Self {
            machine,
            masquerade: !options.no_masquerade,
            lives: Vec::new(),
            memory: Vec::new(),
            lists: Vec::new(),
            stats: Vec::new(),
            pulls: Vec::new(),
        }
    }

    /// The lives of one contender.
    pub(crate) fn life(&self, who: Who, runtime: &str) -> Option<&Life> {
        self.lives
            .iter()
            .find(|life| life.who == who && life.runtime == runtime)
    }
}

/// Pods of one contender, one after the other.
#[derive(Debug, Serialize)]
pub(crate) struct Life {
    /// Who made them.
    pub(crate) who: Who,
    /// With which OCI runtime.
    pub(crate) runtime: String,
    /// The steps in the order of a pod's life.
    pub(crate) order: Vec<String>,
    /// Each step's samples in milliseconds.
    pub(crate) samples_ms: BTreeMap<String, Vec<f64>>,
}

impl Life {
    /// No pods yet.
    pub(crate) fn new(who: Who, runtime: &str) -> Self {
        Self {
            who,
            runtime: runtime.to_owned(),
            order: Vec::new(),
            samples_ms: BTreeMap::new(),
        }
    }

    /// Adds a pod.
    pub(crate) fn add(&mut self, steps: &Steps) {
        for (step, ms) in steps.iter() {
            if !self.samples_ms.contains_key(step) {
                self.order.push(step.to_owned());
            }
            self.samples_ms.entry(step.to_owned()).or_default().push(ms);
        }
    }

    /// What is said about a step.
    pub(crate) fn summary(&self, step: &str) -> Option<Summary> {
        Summary::of(self.samples_ms.get(step)?)
    }

    /// The median of a step.
    pub(crate) fn p50(&self, step: &str) -> Option<f64> {
        self.summary(step).map(|summary| summary.p50)
    }

    /// Its name in tables.
    pub(crate) fn name(&self) -> String {
        format!("{} · {}", self.who.name(), self.runtime)
    }
}

/// Memory of one server, in KiB of proportional set size.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    /// Whose.
    pub(crate) who: Who,
    /// With which OCI runtime.
    pub(crate) runtime: String,
    /// The server with nothing to do.
    pub(crate) idle_kib: u64,
    /// The server with the pods.
    pub(crate) with_pods_kib: u64,
    /// The server after their removal.
    pub(crate) after_kib: u64,
    /// How many pods.
    pub(crate) pods: u32,
    /// Processes that came with the pods and are not the containers': by name, the PSS of each.
    pub(crate) companions_kib: BTreeMap<String, Vec<u64>>,
    /// All pods started, several at a time, in seconds.
    pub(crate) start_s: f64,
    /// All pods stopped and removed likewise.
    pub(crate) stop_s: f64,
}

impl Memory {
    /// What the pods' companions need for each pod.
    pub(crate) fn companions_per_pod_kib(&self) -> u64 {
        let sum: u64 = self.companions_kib.values().flatten().sum();
        sum / u64::from(self.pods.max(1))
    }
}

/// `ListContainers` of one server.
#[derive(Debug, Serialize)]
pub(crate) struct List {
    /// Whose.
    pub(crate) who: Who,
    /// How many containers it listed.
    pub(crate) records: usize,
    /// Calls that the CPU time is the mean of.
    pub(crate) calls: u32,
    /// CPU time of the server for one call.
    pub(crate) cpu_ms: f64,
    /// What the client waited for each call, in milliseconds; it decodes meanwhile.
    pub(crate) wall_ms: Vec<f64>,
    /// The server's PSS with these records.
    pub(crate) server_kib: u64,
    /// What creating each container took, in milliseconds.
    pub(crate) create_ms: Vec<f64>,
}

/// One call for statistics of one server.
#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    /// Whose.
    pub(crate) who: Who,
    /// The call.
    pub(crate) call: String,
    /// How many containers or pods it listed.
    pub(crate) items: usize,
    /// What the client waited for each call, in milliseconds.
    pub(crate) wall_ms: Vec<f64>,
    /// CPU time of the server for one call, on average.
    pub(crate) cpu_ms: f64,
}

/// Pulls of the large image by one server.
#[derive(Debug, Serialize)]
pub(crate) struct Pull {
    /// Whose.
    pub(crate) who: Who,
    /// How large the image is in transit.
    pub(crate) image_bytes: u64,
    /// Each pull.
    pub(crate) wall_s: Vec<f64>,
    /// CPU time of the server for each.
    pub(crate) cpu_s: Vec<f64>,
    /// Its greatest resident set in any of them. This and what follows is of servers only.
    pub(crate) peak_rss_kib: u64,
    /// Its most anonymous memory in any of them, as far as a look now and then sees it.
    pub(crate) peak_anonymous_kib: u64,
    /// How long after each its memory was below the goal for an idle server again; the patience for that, if it never was.
    pub(crate) settled_s: Vec<f64>,
    /// What `RemoveImage` took after each.
    pub(crate) remove_ms: Vec<f64>,
}
