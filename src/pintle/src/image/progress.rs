//! How far a pull is, in one line.

use std::fmt::Write as _;

use api::admin::{LayerState, PullProgress};

use crate::amount::size;

/// Characters of the bar.
const BAR: usize = 24;

/// `[######------]  25%  12.0 MiB of 48.0 MiB  3.1 MiB/s  2 of 5 layers  registry.example`, cut to a width.
pub(crate) fn line(progress: &PullProgress, width: usize) -> String {
    if progress.layers.is_empty() {
        return clip("asking the registry…", width);
    }
    let layers = &progress.layers;
    let total: u64 = layers.iter().map(|layer| layer.size).sum();
    let here: u64 = layers
        .iter()
        .map(|layer| match layer.state() {
            LayerState::Done | LayerState::Unpacking => layer.size,
            _ => (layer.fetched.saturating_add(layer.resumed)).min(layer.size),
        })
        .sum();
    let rate: u64 = layers.iter().map(|layer| layer.bytes_per_second).sum();
    let done = layers
        .iter()
        .filter(|layer| layer.state() == LayerState::Done)
        .count();
    let thousandth = u128::from(here) * 1000 / u128::from(total.max(1));
    let filled = usize::try_from(thousandth * BAR as u128 / 1000).map_or(BAR, |n| n.min(BAR));
    let mut text = format!(
        "[{}{}] {:>3}%  {} of {}",
        "#".repeat(filled),
        "-".repeat(BAR - filled),
        thousandth / 10,
        size(here),
        size(total),
    );
    // Writing to a String cannot fail.
    if rate > 0 {
        let _ = write!(text, "  {}/s", size(rate));
    }
    let _ = write!(text, "  {done} of {} layers", layers.len());
    let sending = layers
        .iter()
        .find(|layer| layer.state() == LayerState::Downloading && !layer.host.is_empty());
    if let Some(layer) = sending {
        let _ = write!(text, "  {}", layer.host);
    }
    clip(&text, width)
}

/// One object of the JSON lines.
pub(crate) fn json(progress: &PullProgress) -> serde_json::Value {
    let layers: Vec<serde_json::Value> = progress
        .layers
        .iter()
        .map(|layer| {
            let state = match layer.state() {
                LayerState::Waiting => "waiting",
                LayerState::Downloading => "downloading",
                LayerState::Unpacking => "unpacking",
                LayerState::Done => "done",
            };
            serde_json::json!({
                "digest": layer.digest,
                "sizeBytes": layer.size,
                "fetchedBytes": layer.fetched,
                "resumedBytes": layer.resumed,
                "state": state,
                "bytesPerSecond": layer.bytes_per_second,
                "host": layer.host,
            })
        })
        .collect();
    serde_json::json!({ "reference": progress.reference, "layers": layers })
}

fn clip(text: &str, width: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(width)
        .collect()
}

#[cfg(test)]
mod tests {
    use api::admin::LayerProgress;

    use super::*;

    fn layer(size: u64, fetched: u64, state: LayerState) -> LayerProgress {
        LayerProgress {
            size,
            fetched,
            state: state.into(),
            host: "r.example".to_owned(),
            bytes_per_second: if state == LayerState::Downloading {
                2048
            } else {
                0
            },
            ..LayerProgress::default()
        }
    }

    #[test]
    fn a_pull_in_the_middle() {
        let mut progress = PullProgress {
            reference: "r.example/app:1".to_owned(),
            since_unix_ns: 0,
            layers: vec![
                layer(1 << 20, 0, LayerState::Done),
                layer(3 << 20, 1 << 20, LayerState::Downloading),
            ],
        };
        assert_eq!(
            line(&progress, 200),
            "[############------------]  50%  2.0 MiB of 4.0 MiB  2.0 KiB/s  1 of 2 layers  r.example"
        );
        assert_eq!(line(&progress, 10), "[#########");
        progress.layers.clear();
        assert_eq!(line(&progress, 80), "asking the registry…");
    }

    #[test]
    fn an_image_without_bytes_is_no_division_by_zero() {
        let progress = PullProgress {
            layers: vec![layer(0, 0, LayerState::Waiting)],
            ..PullProgress::default()
        };
        assert!(line(&progress, 80).contains("0%"));
    }
}
