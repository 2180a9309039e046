//! The results for people: tables in Markdown. [`write()`] adds the raw figures and the chart.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    chart, goals, life,
    options::Who,
    results::{Life, List, Memory, Pull, Results, Stats},
    samples::{Summary, median},
};

/// Writes report.md, results.json and pods.svg.
pub(crate) fn write(dir: &Path, results: &Results) -> Result<()> {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    file("report.md", &markdown(results))?;
    let mut json = serde_json::to_value(results)?;
    json["verdicts"] = serde_json::to_value(goals::judge(results))?;
    file("results.json", &serde_json::to_string_pretty(&json)?)?;
    if !results.lives.is_empty() {
        file("pods.svg", &chart::draw(&results.lives))?;
    }
    Ok(())
}

/// The whole report.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::from("# Benchmark\n\n");
    let machine = &results.machine;
    line(
        &mut text,
        &format!(
            "{} × {}, Linux {}; {}; load before {} and after {}; CNI bridge, host-local and portmap, masquerading {}.",
            machine.processors,
            machine.processor,
            machine.kernel,
            machine.versions.join("; "),
            machine.load_before,
            machine.load_after,
            if results.masquerade { "on" } else { "off" }
        ),
    );
    verdicts(&mut text, results);
    if !results.lives.is_empty() {
        lives(&mut text, &results.lives);
        floors(&mut text, &results.lives);
    }
    if !results.memory.is_empty() {
        memory(&mut text, &results.memory);
    }
    if !results.lists.is_empty() {
        lists(&mut text, &results.lists);
    }
    if !results.stats.is_empty() {
        stats(&mut text, &results.stats);
    }
    if !results.pulls.is_empty() {
        pulls(&mut text, &results.pulls);
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn title(text: &mut String, title: &str, columns: &[String]) {
    line(text, &format!("\n## {title}\n"));
    row(text, columns);
    let rule: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(column, _)| if column == 0 { "---" } else { "---:" }.to_owned())
        .collect();
    row(text, &rule);
}

fn row(text: &mut String, cells: &[String]) {
    line(text, &format!("| {} |", cells.join(" | ")));
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn verdicts(text: &mut String, results: &Results) {
    title(
        text,
        "Goals",
        &words(&["goal", "found", "bound", "figures", "verdict"]),
    );
    for verdict in goals::judge(results) {
        row(
            text,
            &[
                verdict.goal.clone(),
                format!("{:.2}", verdict.found),
                format!("{}", verdict.bound),
                verdict.how.clone(),
                if verdict.met() { "met" } else { "**not met**" }.to_owned(),
            ],
        );
    }
}

/// p50 and p95 of the calls, a column for each contender.
fn lives(text: &mut String, lives: &[Life]) {
    let mut columns = vec!["ms, p50 (p95)".to_owned()];
    columns.extend(lives.iter().map(Life::name));
    title(text, "Pods one after the other", &columns);
    let calls = life::START_STEPS
        .iter()
        .chain([&life::POD_START, &life::EXEC])
        .chain(life::STOP_STEPS)
        .chain([&life::POD_STOP, &life::DEL_AND_DELETE]);
    for &call in calls {
        let sum = call == life::POD_START || call == life::POD_STOP;
        let name = if sum {
            format!("**{call}**")
        } else {
            call.to_owned()
        };
        let mut cells = vec![name];
        for life in lives {
            cells.push(life.summary(call).map_or_else(String::new, figures));
        }
        row(text, &cells);
    }
    if let Some(count) = lives
        .iter()
        .filter_map(|life| life.summary(life::POD_START))
        .map(|s| s.count)
        .min()
    {
        line(
            text,
            &format!(
                "\n{count} pods of each, taking turns. The floor's calls are its steps summed up:"
            ),
        );
    }
}

/// What the floor's calls are made of.
fn floors(text: &mut String, lives: &[Life]) {
    let floors: Vec<_> = lives.iter().filter(|life| life.who == Who::Floor).collect();
    let Some(first) = floors.first() else {
        return;
    };
    let mut columns = vec!["ms, p50 (p95)".to_owned()];
    columns.extend(floors.iter().map(|floor| floor.name()));
    title(text, "The floor's steps", &columns);
    let calls: Vec<&str> = life::START_STEPS
        .iter()
        .chain(life::STOP_STEPS)
        .chain([
            &life::POD_START,
            &life::POD_STOP,
            &life::DEL_AND_DELETE,
            &life::EXEC,
        ])
        .copied()
        .collect();
    for step in first
        .order
        .iter()
        .filter(|step| !calls.contains(&step.as_str()))
    {
        let mut cells = vec![step.clone()];
        for floor in &floors {
            cells.push(floor.summary(step).map_or_else(String::new, figures));
        }
        row(text, &cells);
    }
}

fn figures(summary: Summary) -> String {
    format!("{:.1} ({:.1})", summary.p50, summary.p95)
}

fn memory(text: &mut String, memory: &[Memory]) {
    title(
        text,
        "Memory",
        &words(&[
            "KiB of PSS",
            "server idle",
            "with pods",
            "after them",
            "beside each pod",
            "which are, each",
            "pods started in",
            "stopped in",
        ]),
    );
    for one in memory {
        let mut companions = Vec::new();
        for (name, kib) in &one.companions_kib {
            let sum: u64 = kib.iter().sum();
            companions.push(format!(
                "{name} {} ({} of them)",
                sum / kib.len().max(1) as u64,
                kib.len()
            ));
        }
        row(
            text,
            &[
                format!("{} · {}", one.who.name(), one.runtime),
                one.idle_kib.to_string(),
                format!("{} ({} pods)", one.with_pods_kib, one.pods),
                one.after_kib.to_string(),
                one.companions_per_pod_kib().to_string(),
                companions.join(", "),
                format!("{:.1} s", one.start_s),
                format!("{:.1} s", one.stop_s),
            ],
        );
    }
}

fn lists(text: &mut String, lists: &[List]) {
    title(
        text,
        "ListContainers",
        &words(&[
            "",
            "records",
            "server CPU for a call, ms",
            "client waits, ms, p50 (p95)",
            "server PSS, KiB",
            "CreateContainer meanwhile, ms, p50 (p95)",
        ]),
    );
    for list in lists {
        row(
            text,
            &[
                list.who.name().to_owned(),
                list.records.to_string(),
                format!("{:.3}", list.cpu_ms),
                Summary::of(&list.wall_ms).map_or_else(String::new, figures),
                list.server_kib.to_string(),
                Summary::of(&list.create_ms).map_or_else(String::new, figures),
            ],
        );
    }
}

fn stats(text: &mut String, stats: &[Stats]) {
    title(
        text,
        "Statistics",
        &words(&[
            "",
            "call",
            "items",
            "client waits, ms, p50 (p95)",
            "server CPU for a call, ms",
        ]),
    );
    for one in stats {
        row(
            text,
            &[
                one.who.name().to_owned(),
                one.call.clone(),
                one.items.to_string(),
                Summary::of(&one.wall_ms).map_or_else(String::new, figures),
                format!("{:.3}", one.cpu_ms),
            ],
        );
    }
}

fn pulls(text: &mut String, pulls: &[Pull]) {
    // Nothing where there is no server to look at.
    let mib = |bytes: u64| match bytes >> 20 {
        0 => String::new(),
        mib => mib.to_string(),
    };
    title(
        text,
        "Pulls",
        &words(&[
            "",
            "median, s",
            "each, s",
            "CPU, median, s",
            "peak RSS, MiB",
            "peak anonymous, MiB",
            "RemoveImage, ms",
            "image, MiB",
        ]),
    );
    for pull in pulls {
        let each: Vec<_> = pull
            .wall_s
            .iter()
            .map(|wall| format!("{wall:.2}"))
            .collect();
        let seconds = |samples: &[f64]| {
            median(samples).map_or_else(String::new, |seconds| format!("{seconds:.2}"))
        };
        row(
            text,
            &[
                pull.who.name().to_owned(),
                seconds(&pull.wall_s),
                each.join(" "),
                seconds(&pull.cpu_s),
                mib(pull.peak_rss_kib << 10),
                mib(pull.peak_anonymous_kib << 10),
                Summary::of(&pull.remove_ms).map_or_else(String::new, figures),
                mib(pull.image_bytes),
            ],
        );
    }
}
