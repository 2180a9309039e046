//! Each fault of a registry, what is said of it, and how long that takes. `docs/pulls.md` has the table that this prints
//! (`cargo nextest run -p pintle-image --no-capture -E 'test(every_fault)'`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use image::ImagesConfig;

use crate::faulty::{Faulty, Reply, Seen};
use crate::node::Node;
use crate::published::{Published, noise};

const MIB: usize = 1 << 20;

/// The request, what an honest registry would answer with, and how often this path was asked for before.
type Fault = fn(&Seen, Option<&[u8]>, usize) -> Option<Reply>;

struct Case {
    name: &'static str,
    fault: Fault,
    /// Words of the error; none: the pull ends well.
    says: &'static [&'static str],
}

const fn ends_well(name: &'static str, fault: Fault) -> Case {
    Case {
        name,
        fault,
        says: &[],
    }
}

const fn says(name: &'static str, says: &'static [&'static str], fault: Fault) -> Case {
    Case { name, fault, says }
}

/// A fault of layers only.
fn of_layer(layer: Option<&[u8]>, reply: impl FnOnce(&[u8]) -> Reply) -> Option<Reply> {
    layer.map(reply)
}

const CASES: &[Case] = &[
    ends_well("every answer comes 0.2 s late", |seen, layer, _| {
        let then = match layer {
            Some(layer) => Reply::part(seen, layer),
            None => return None,
        };
        Some(Reply::Later(Duration::from_millis(200), Box::new(then)))
    }),
    says("no answer at all", &["no answer within"], |_, _, _| {
        Some(Reply::Silence)
    }),
    says(
        "a layer is never answered",
        &["no answer within"],
        |_, layer, _| of_layer(layer, |_| Reply::Silence),
    ),
    ends_well("a layer is cut ten times", |seen, layer, before| {
        of_layer(layer, |layer| {
            let whole = Reply::part(seen, layer);
            if before < 10 {
                whole.cut_after(150_000, MIB, Duration::ZERO)
            } else {
                whole
            }
        })
    }),
    says(
        "a layer is always cut at byte 0",
        &["cut layer sha256:", "short after 0 of"],
        |seen, layer, _| {
            of_layer(layer, |layer| {
                Reply::part(seen, layer).cut_after(0, MIB, Duration::ZERO)
            })
        },
    ),
    ends_well(
        "a layer is cut once, and ranges are ignored",
        |_, layer, before| {
            of_layer(layer, |layer| match before {
                0 => Reply::ok(layer).cut_after(MIB, MIB, Duration::ZERO),
                _ => Reply::ok(layer),
            })
        },
    ),
    says(
        "a layer is always cut at the same byte, and ranges are ignored",
        &["short after 1048576 of"],
        |_, layer, _| {
            of_layer(layer, |layer| {
                Reply::ok(layer).cut_after(MIB, MIB, Duration::ZERO)
            })
        },
    ),
    says(
        "a layer stops in the middle",
        &["the download stalled"],
        |seen, layer, _| {
            of_layer(layer, |layer| Reply::Stall {
                body: match seen.range(layer.len()) {
                    None => layer[..MIB].to_vec(),
                    Some(_) => Vec::new(),
                },
                length: layer.len(),
            })
        },
    ),
    says(
        "a layer drips, 100 bytes a second",
        &["the download stalled"],
        |seen, layer, _| {
            of_layer(layer, |layer| {
                Reply::part(seen, layer).cut_after(usize::MAX, 10, Duration::from_millis(100))
            })
        },
    ),
    ends_well(
        "a layer drips, then its server is restarted",
        |seen, layer, before| {
            of_layer(layer, |layer| {
                let whole = Reply::part(seen, layer);
                match before {
                    0 => whole.cut_after(usize::MAX, 10, Duration::from_millis(100)),
                    _ => whole,
                }
            })
        },
    ),
    says(
        "the right length, the wrong bytes",
        &["layer sha256:", "is corrupt"],
        |_, layer, _| of_layer(layer, |layer| Reply::ok(noise(5, layer.len()))),
    ),
    says(
        "one wrong bit at the end",
        &["layer sha256:", "is corrupt"],
        |_, layer, _| {
            of_layer(layer, |layer| {
                let mut wrong = layer.to_vec();
                *wrong.last_mut().unwrap() ^= 1;
                Reply::ok(wrong)
            })
        },
    ),
    says(
        "another length",
        &["is corrupt", "the manifest says"],
        |_, layer, _| of_layer(layer, |layer| Reply::ok(&layer[..layer.len() - 1])),
    ),
    says(
        "more than was announced, without a length",
        &["sends more than"],
        |_, layer, _| {
            of_layer(layer, |layer| {
                let mut longer = layer.to_vec();
                longer.push(0);
                Reply::Chunked(longer)
            })
        },
    ),
    says(
        "less than was announced, without a length",
        &["is corrupt", "ends it after"],
        |_, layer, _| {
            of_layer(layer, |layer| {
                Reply::Chunked(layer[..layer.len() - 1].to_vec())
            })
        },
    ),
    ends_well(
        "cut once, then a Content-Range of other bytes",
        |seen, layer, before| {
            of_layer(layer, |layer| match (before, seen.header("range")) {
                (0, _) => Reply::ok(layer).cut_after(MIB, MIB, Duration::ZERO),
                (_, None) => Reply::ok(layer),
                _ => Reply::Full(
                    206,
                    vec![("Content-Range", format!("bytes 7-{}/{0}", layer.len() - 1))],
                    layer[8..].to_vec(),
                ),
            })
        },
    ),
    ends_well(
        "cut once, then other bytes than the Content-Range says",
        |seen, layer, before| {
            of_layer(layer, |layer| match (before, Reply::part(seen, layer)) {
                (0, _) => Reply::ok(layer).cut_after(MIB, MIB, Duration::ZERO),
                (_, Reply::Full(206, headers, body)) => {
                    Reply::Full(206, headers, noise(6, body.len()))
                }
                (_, whole) => whole,
            })
        },
    ),
    ends_well("cut once, then 416", |seen, layer, before| {
        of_layer(layer, |layer| match (before, seen.header("range")) {
            (0, _) => Reply::ok(layer).cut_after(MIB, MIB, Duration::ZERO),
            (_, Some(_)) => Reply::status(416),
            (_, None) => Reply::ok(layer),
        })
    }),
    ends_well("cut once, then another ETag", |_, layer, before| {
        of_layer(layer, |layer| {
            let tag = vec![("ETag", format!("\"{before}\""))];
            let whole = Reply::Full(200, tag, layer.to_vec());
            match before {
                0 => whole.cut_after(MIB, MIB, Duration::ZERO),
                _ => whole,
            }
        })
    }),
    ends_well("429 and 503 twice, then the layer", |_, layer, before| {
        of_layer(layer, |layer| match before {
            0 => Reply::Full(429, vec![("Retry-After", "0".to_owned())], vec![]),
            1 => Reply::status(503),
            _ => Reply::ok(layer),
        })
    }),
    says("429 for ever", &["too many requests"], |_, layer, _| {
        of_layer(layer, |_| Reply::status(429))
    }),
    says(
        "429, to be waited for for ten minutes",
        &["too many requests", "600 s"],
        |_, layer, _| {
            of_layer(layer, |_| {
                Reply::Full(429, vec![("Retry-After", "600".to_owned())], vec![])
            })
        },
    ),
    says(
        "502 with a web page for ever",
        &["it answers 502 with a web page"],
        |_, layer, _| of_layer(layer, |_| Reply::page(502)),
    ),
    ends_well(
        "cut, then 500 three times, then the rest",
        |seen, layer, before| {
            of_layer(layer, |layer| {
                let whole = Reply::part(seen, layer);
                match before {
                    0 => whole.cut_after(MIB, MIB, Duration::ZERO),
                    1..4 => Reply::status(500),
                    _ => whole,
                }
            })
        },
    ),
    says("401 for a layer", &["denies access"], |_, layer, _| {
        of_layer(layer, |_| Reply::refusal(401, "UNAUTHORIZED"))
    }),
    says(
        "403 in the middle of a layer",
        &["denies access"],
        |seen, layer, before| {
            of_layer(layer, |layer| match before {
                0 => Reply::part(seen, layer).cut_after(MIB, MIB, Duration::ZERO),
                _ => Reply::refusal(403, "DENIED"),
            })
        },
    ),
    says("404 for a layer", &["is not on"], |_, layer, _| {
        of_layer(layer, |_| Reply::refusal(404, "BLOB_UNKNOWN"))
    }),
    says(
        "a web page instead of a layer",
        &["web page where a layer was expected"],
        |_, layer, _| of_layer(layer, |_| Reply::page(200)),
    ),
    says(
        "redirects in a circle",
        &["redirects more than"],
        |seen, layer, _| of_layer(layer, |_| Reply::redirect(seen.path.clone())),
    ),
];

fn impatient(config: &mut ImagesConfig) {
    config.timeouts.header = Duration::from_secs(1);
    config.timeouts.stall = Duration::from_secs(1);
    config.timeouts.retry_wait = Duration::from_millis(300);
    config.attempts = 3;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_told_in_words_in_time_and_leaves_nothing() {
    let image = Published::of_files(&[("file", &noise(1, 2 * MIB))]);
    println!("| fault | what the error says | after |\n| --- | --- | --- |");
    for case in CASES {
        let fault = case.fault;
        let layer = image.layers[0].clone();
        let digest = image.layer_digest(0).to_string();
        let asked = std::sync::Mutex::new(HashMap::<String, usize>::new());
        let registry = Faulty::holding(&[("1", &image)], {
            let (layer, digest) = (layer.clone(), digest.clone());
            move |seen| {
                let before = {
                    let mut asked = asked.lock().unwrap();
                    let count = asked.entry(seen.path.clone()).or_default();
                    *count += 1;
                    *count - 1
                };
                let layer = seen.path.ends_with(&digest).then_some(layer.as_slice());
                fault(seen, layer, before)
            }
        })
        .await;
        let node = Node::with(&[&registry.host], impatient);
        let began = Instant::now();
        let name = registry.reference("app:1");
        // Far beyond what any of them may take: none hangs.
        let result = tokio::time::timeout(Duration::from_secs(90), node.pull(&name)).await;
        let result = result.unwrap_or_else(|_| panic!("{} hangs", case.name));
        let took = began.elapsed().as_secs_f32();
        match result {
            Ok(pulled) => {
                println!("| {} | the image is pulled | {took:.1} s |", case.name);
                assert_eq!(case.says, [""; 0], "{} ends well", case.name);
                assert!(
                    node.read(&pulled, "file").unwrap() == noise(1, 2 * MIB),
                    "{}",
                    case.name
                );
                assert!(node.partials().is_empty(), "{}", case.name);
            }
            Err(error) => {
                let words = in_full(&error);
                assert!(
                    !case.says.is_empty() && case.says.iter().all(|part| words.contains(part)),
                    "{}: {words}",
                    case.name
                );
                let told = words
                    .replace(&registry.host, "REGISTRY")
                    .replace(&digest, "sha256:…");
                println!("| {} | {told} | {took:.1} s |", case.name);
                assert!(node.images.list().is_empty() && node.layers_on_disk().is_empty());
            }
        }
        assert!(node.leftovers().await.is_empty(), "{}", case.name);
        assert!(node.partials().len() <= 1, "{}", case.name);
        assert!(node.images.pulls().is_empty(), "{}", case.name);
    }
}

/// An error with its causes, as a pod event tells it.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}
