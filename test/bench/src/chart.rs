//! The chart: pod start and pod stop as stacked bars, one bar for each contender, in SVG of our own.
//!
//! Plain shapes and text, no script and no style sheet, so that every viewer shows it. Bars of one OCI runtime stand
//! together; the length of a part is the median of its call, the figure at the end the median of the sum, which is not
//! exactly the sum of the medians. A thin line reaches to the 95th percentile.

use std::fmt::Write as _;

use crate::{life, results::Life};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Where bars begin: left of it stand the names.
const BARS_X: f64 = 190.0;
/// Room for the figure behind the longest bar.
const FIGURE_WIDTH: f64 = 110.0;
const BAR_HEIGHT: f64 = 24.0;
const BAR_STEP: f64 = 34.0;
const GROUP_GAP: f64 = 16.0;
const HEADER_HEIGHT: f64 = 58.0;
const AXIS_HEIGHT: f64 = 46.0;
/// A part at least this long has its figure in it.
const FIGURE_FITS: f64 = 30.0;

const INK: &str = "#1f2933";
const FAINT: &str = "#d5dae1";
const SOFT: &str = "#61707f";
/// Told apart by those who see red and green alike, too.
const COLOURS: [&str; 4] = ["#33658a", "#f6ae2d", "#86bbd8", "#9aa5b1"];

/// Draws it.
pub(crate) fn draw(lives: &[Life]) -> String {
    let groups = groups(lives);
    let panels = [
        ("Pod start", life::START_STEPS, life::POD_START),
        ("Pod stop and removal", life::STOP_STEPS, life::POD_STOP),
    ];
    let mut body = String::new();
    let mut y = MARGIN;
    for (title, calls, sum) in panels {
        y = panel(&mut body, y, title, calls, sum, &groups);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" width=\"{WIDTH}\" height=\"{y:.0}\" \
         font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

/// The contenders of each runtime, in the order of the runtimes' first appearance.
fn groups(lives: &[Life]) -> Vec<Vec<&Life>> {
    let mut groups: Vec<Vec<&Life>> = Vec::new();
    for life in lives {
        match groups
            .iter_mut()
            .find(|group| group[0].runtime == life.runtime)
        {
            Some(group) => group.push(life),
            None => groups.push(vec![life]),
        }
    }
    groups
}

/// Draws one panel and says where the next one begins.
fn panel(
    body: &mut String,
    top: f64,
    title: &str,
    calls: &[&str],
    sum: &str,
    groups: &[Vec<&Life>],
) -> f64 {
    let longest = groups
        .iter()
        .flatten()
        .filter_map(|life| life.summary(sum))
        .map(|summary| summary.p95)
        .fold(1.0, f64::max);
    let tick_ms = tick(longest);
    let end_ms = (longest / tick_ms).ceil() * tick_ms;
    let scale = (WIDTH - BARS_X - FIGURE_WIDTH) / end_ms;

    text(
        body,
        MARGIN,
        top + 16.0,
        INK,
        "start",
        &format!("<tspan font-size=\"17\" font-weight=\"600\">{title}</tspan>"),
    );
    let mut x = BARS_X;
    for (call, colour) in calls.iter().zip(COLOURS) {
        rect(body, (x, top + 28.0), (12.0, 12.0), colour, "");
        text(body, x + 18.0, top + 38.5, SOFT, "start", call);
        // Wide enough for letters of the usual fonts.
        x += 40.0 + 7.0 * f64::from(u16::try_from(call.len()).unwrap_or(u16::MAX));
    }

    let bars_top = top + HEADER_HEIGHT;
    let mut y = bars_top;
    let mut bars = String::new();
    for group in groups {
        for life in group {
            bar(&mut bars, y, life, calls, sum, scale);
            y += BAR_STEP;
        }
        y += GROUP_GAP;
    }
    let bars_end = y - GROUP_GAP;
    let mut mark = 0.0;
    while mark <= end_ms {
        let x = BARS_X + mark * scale;
        line(body, (x, bars_top - 6.0), (x, bars_end), FAINT);
        text(
            body,
            x,
            bars_end + 16.0,
            SOFT,
            "middle",
            &format!("{mark:.0}"),
        );
        mark += tick_ms;
    }
    text(
        body,
        BARS_X + end_ms * scale + 34.0,
        bars_end + 16.0,
        SOFT,
        "middle",
        "ms",
    );
    body.push_str(&bars);
    bars_end + AXIS_HEIGHT
}

fn bar(body: &mut String, y: f64, life: &Life, calls: &[&str], sum: &str, scale: f64) {
    text(body, BARS_X - 12.0, y + 16.5, INK, "end", &life.name());
    let mut x = BARS_X;
    for (call, colour) in calls.iter().zip(COLOURS) {
        let Some(summary) = life.summary(call) else {
            continue;
        };
        let width = summary.p50 * scale;
        let hint = format!(
            "{call}: p50 {:.1} ms, p95 {:.1} ms",
            summary.p50, summary.p95
        );
        rect(body, (x, y), (width, BAR_HEIGHT), colour, &hint);
        if width >= FIGURE_FITS {
            // Light letters on the darkest colour only.
            let ink = if colour == COLOURS[0] { "#ffffff" } else { INK };
            text(
                body,
                x + width / 2.0,
                y + 16.5,
                ink,
                "middle",
                &format!("{:.0}", summary.p50),
            );
        }
        x += width;
    }
    let Some(summary) = life.summary(sum) else {
        return;
    };
    let p95_x = (BARS_X + summary.p95 * scale).max(x);
    let middle = y + BAR_HEIGHT / 2.0;
    line(body, (x, middle), (p95_x, middle), SOFT);
    line(body, (p95_x, middle - 5.0), (p95_x, middle + 5.0), SOFT);
    let figure = format!(
        "<tspan font-weight=\"600\">{:.0}</tspan> <tspan fill=\"{SOFT}\">p95 {:.0}</tspan>",
        summary.p50, summary.p95
    );
    text(body, p95_x + 8.0, y + 16.5, INK, "start", &figure);
}

/// A round distance of marks that makes about six of them.
fn tick(longest: f64) -> f64 {
    let rough = longest / 6.0;
    let magnitude = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|round| round * magnitude)
        .find(|&distance| distance >= rough)
        .unwrap_or(rough)
}

fn text(body: &mut String, x: f64, y: f64, colour: &str, anchor: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

fn line(body: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(
        body,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn rect(
    body: &mut String,
    (x, y): (f64, f64),
    (width, height): (f64, f64),
    colour: &str,
    hint: &str,
) {
    let _ = writeln!(
        body,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"><title>{hint}</title></rect>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{options::Who, samples::Steps};

    #[test]
    fn marks_are_round_and_few() {
        for (longest, distance) in [(90.0, 20.0), (175.0, 50.0), (61.0, 20.0), (6.0, 1.0)] {
            assert!((tick(longest) - distance).abs() < 1e-9, "{longest}");
        }
    }

    #[test]
    fn every_contender_has_a_bar() {
        let lives = [
            (Who::Floor, "crun"),
            (Who::Pintle, "crun"),
            (Who::Pintle, "runc"),
        ]
        .map(|(who, runtime)| {
            let mut life = Life::new(who, runtime);
            let mut steps = Steps::default();
            for call in life::START_STEPS.iter().chain(life::STOP_STEPS) {
                steps.note(call, 10.0);
            }
            steps.note(life::POD_START, 30.0);
            steps.note(life::POD_STOP, 40.0);
            life.add(&steps);
            life
        });
        let svg = draw(&lives);
        for life in &lives {
            assert_eq!(svg.matches(&format!(">{}<", life.name())).count(), 2);
        }
        assert_eq!(svg.matches("<rect").count(), 1 + 7 + 3 * 7);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
