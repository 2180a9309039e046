//! The goals of the project as ratios and bounds, and whether a run meets them.

use serde::Serialize;

use crate::{
    life,
    options::Who,
    pull,
    results::{Life, List, Memory, Pull, Results, Stats},
    samples::median,
    stats,
};

const MIB: f64 = 1024.0;

/// One goal and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    /// What is promised.
    pub(crate) goal: String,
    /// The figure that may not be passed.
    pub(crate) bound: f64,
    /// The figure that was found.
    pub(crate) found: f64,
    /// How it came about.
    pub(crate) how: String,
}

impl Verdict {
    /// Whether the goal is met.
    pub(crate) fn met(&self) -> bool {
        self.found <= self.bound
    }
}

/// Judges what was measured; a goal without its figures is left out.
pub(crate) fn judge(results: &Results) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for runtime in ["crun", "runc"] {
        let Some(pintle) = results.life(Who::Pintle, runtime) else {
            continue;
        };
        if let Some(floor) = results.life(Who::Floor, runtime) {
            verdicts.extend(lives(pintle, life::POD_START, floor, life::POD_START, 1.15));
            verdicts.extend(lives(
                pintle,
                life::POD_STOP,
                floor,
                life::DEL_AND_DELETE,
                1.15,
            ));
        }
        // containerd as Debian ships it runs runc, whatever Pintle runs.
        if let Some(containerd) = results.life(Who::Containerd, "runc") {
            let bound = if runtime == "crun" { 0.5 } else { 0.8 };
            verdicts.extend(lives(
                pintle,
                life::POD_START,
                containerd,
                life::POD_START,
                bound,
            ));
        }
    }
    let memory = results
        .memory
        .iter()
        .find(|memory| memory.who == Who::Pintle);
    verdicts.extend(memory.into_iter().flat_map(of_memory));
    let list = results.lists.iter().find(|list| list.who == Who::Pintle);
    verdicts.extend(list.map(of_list));
    for call in [stats::CONTAINERS, stats::PODS] {
        verdicts.extend(of_stats(&results.stats, call));
    }
    verdicts.extend(of_pulls(&results.pulls));
    verdicts
}

fn lives(
    ours: &Life,
    our_step: &str,
    other: &Life,
    other_step: &str,
    bound: f64,
) -> Option<Verdict> {
    let (our_ms, other_ms) = (ours.p50(our_step)?, other.p50(other_step)?);
    Some(Verdict {
        goal: format!(
            "{our_step}, {} ≤ {bound} × {} ({other_step})",
            ours.runtime,
            other.name()
        ),
        bound,
        found: our_ms / other_ms,
        how: format!("{our_ms:.1} / {other_ms:.1} ms"),
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "memory sizes are far below 2^52 KiB"
)]
fn of_memory(memory: &Memory) -> Vec<Verdict> {
    let in_mib = |goal: &str, bound: f64, kib: u64| Verdict {
        goal: format!("{goal} ≤ {bound} MiB PSS"),
        bound,
        found: kib as f64 / MIB,
        how: format!("{kib} KiB"),
    };
    let mut verdicts = vec![
        in_mib("server, idle,", 10.0, memory.idle_kib),
        in_mib(
            &format!("server with {} pods", memory.pods),
            16.0,
            memory.with_pods_kib,
        ),
    ];
    if let Some(monitors) = memory.companions_kib.get("pintle-monitor")
        && let Some(worst) = monitors.iter().max()
    {
        let sum: u64 = monitors.iter().sum();
        verdicts.push(Verdict {
            goal: format!("monitor ≤ 130 KiB PSS each at {} pods", memory.pods),
            bound: 130.0,
            found: sum as f64 / monitors.len() as f64,
            how: format!("mean of {}; the largest has {worst} KiB", monitors.len()),
        });
    }
    verdicts
}

fn of_list(list: &List) -> Verdict {
    Verdict {
        goal: format!(
            "ListContainers at {} records ≤ 1 ms of server CPU",
            list.records
        ),
        bound: 1.0,
        found: list.cpu_ms,
        how: format!("mean of {} calls", list.calls),
    }
}

/// The goal is against the better of CRI-O and containerd as they are shipped today; Debian's containerd stands in here.
fn of_stats(stats: &[Stats], call: &str) -> Option<Verdict> {
    let of = |who| {
        let found = stats
            .iter()
            .find(|one| one.who == who && one.call == call)?;
        median(&found.wall_ms)
    };
    let (ours, other) = (of(Who::Pintle)?, of(Who::Containerd)?);
    Some(Verdict {
        goal: format!("{call} ≤ 0.15 × containerd"),
        bound: 0.15,
        found: ours / other,
        how: format!("{ours:.2} / {other:.2} ms"),
    })
}

/// Layers of one pull that are unpacked at the same time, as Pintle is shipped.
const LAYERS_AT_A_TIME: f64 = 3.0;

#[expect(
    clippy::cast_precision_loss,
    reason = "memory sizes are far below 2^52 KiB"
)]
fn of_pulls(pulls: &[Pull]) -> Vec<Verdict> {
    let of = |who| pulls.iter().find(|pull| pull.who == who);
    let Some(ours) = of(Who::Pintle) else {
        return Vec::new();
    };
    let beside = |who: Who, what: &str, bound: f64, samples: fn(&Pull) -> &[f64]| {
        let (ours, other) = (median(samples(ours))?, median(samples(of(who)?))?);
        Some(Verdict {
            goal: format!("{what} of the large image ≤ {bound} × {}", who.name()),
            bound,
            found: ours / other,
            how: format!("{ours:.2} / {other:.2} s"),
        })
    };
    let wall: fn(&Pull) -> &[f64] = |pull| &pull.wall_s;
    let mut verdicts: Vec<Verdict> = [
        beside(Who::Containerd, "pull", 0.33, wall),
        beside(Who::Containerd, "CPU for the pull", 0.4, |pull| &pull.cpu_s),
        beside(Who::Skopeo, "pull", 0.2, wall),
        beside(Who::Floor, "pull", 1.3, wall),
    ]
    .into_iter()
    .flatten()
    .collect();
    let bound = 16.0 * LAYERS_AT_A_TIME;
    verdicts.push(Verdict {
        goal: format!("anonymous memory while pulling ≤ {bound} MiB, 16 for each layer at a time"),
        bound,
        found: ours.peak_anonymous_kib as f64 / MIB,
        how: format!("{} KiB", ours.peak_anonymous_kib),
    });
    let worst = |samples: &[f64]| samples.iter().copied().reduce(f64::max);
    verdicts.extend(worst(&ours.settled_s).map(|found| Verdict {
        goal: format!(
            "below {} MiB PSS again ≤ 10 s after a pull",
            pull::IDLE_KIB >> 10
        ),
        bound: 10.0,
        found,
        how: "the slowest".to_owned(),
    }));
    verdicts.extend(worst(&ours.remove_ms).map(|found| Verdict {
        goal: "RemoveImage of the large image ≤ 50 ms".to_owned(),
        bound: 50.0,
        found,
        how: "the slowest".to_owned(),
    }));
    verdicts
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::samples::Steps;

    fn life_of(who: Who, step: &str, ms: f64) -> Life {
        let mut life = Life::new(who, "crun");
        let mut steps = Steps::default();
        steps.note(step, ms);
        life.add(&steps);
        life
    }

    #[test]
    fn a_ratio_on_the_bound_meets_the_goal() {
        let (start, floor) = (life::POD_START, life_of(Who::Floor, life::POD_START, 100.0));
        for (ours, met) in [(115.0, true), (116.0, false)] {
            let ours = life_of(Who::Pintle, start, ours);
            assert_eq!(lives(&ours, start, &floor, start, 1.15).unwrap().met(), met);
        }
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let ours = life_of(Who::Pintle, life::POD_START, 1.0);
        let floor = life_of(Who::Floor, life::POD_START, 1.0);
        assert_eq!(
            lives(&ours, life::POD_STOP, &floor, life::POD_STOP, 1.15),
            None
        );
        assert_eq!(of_pulls(&[]), []);
        assert_eq!(of_stats(&[], stats::PODS), None);
    }
}
