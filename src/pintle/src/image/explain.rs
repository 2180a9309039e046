//! `pintle image explain`, as text and as JSON.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use api::admin::{ExplainImageResponse, ExplainedHost, ExplainedReference};
use serde_json::{Value, json};

/// A paragraph for each full name, and one for each host in the order of asking.
pub(super) fn text(explained: &ExplainImageResponse) -> String {
    let mut text = String::new();
    for (position, found) in explained.references.iter().enumerate() {
        if position > 0 {
            text.push('\n');
        }
        reference(&mut text, explained, found);
    }
    text
}

fn reference(text: &mut String, explained: &ExplainImageResponse, found: &ExplainedReference) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", found.reference);
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {name:<13} {value}");
        }
    };
    line("short name", &explained.short_name);
    line("BLOCKED by", &found.blocked);
    line("policy", &found.policy);
    let mut number = 0;
    for host in &found.hosts {
        let place = if host.skipped.is_empty() {
            number += 1;
            format!("{number}.")
        } else {
            "-".to_owned()
        };
        let _ = writeln!(text, "{place:>3} {}", host.url);
        for (name, value) in facts(host) {
            let _ = writeln!(text, "      {name:<12} {value}");
        }
    }
    let asked = found.hosts.iter().filter(|host| host.skipped.is_empty());
    if asked.count() > 1 {
        text.push_str(
            "A host that fails or lacks the image is followed by the next one; the registry itself is always the last.\n",
        );
    }
}

fn facts(host: &ExplainedHost) -> Vec<(&'static str, String)> {
    let last_error = if host.last_error.is_empty() {
        String::new()
    } else {
        format!("{}: {}", ago(host.last_error_at), host.last_error)
    };
    let asked_for = match (host.capabilities.as_slice(), host.skipped.as_str()) {
        ([], _) => String::new(),
        (capabilities, _) => capabilities.join(", "),
    };
    [
        ("from", host.from.clone()),
        ("not asked", host.skipped.clone()),
        ("asked to", asked_for),
        ("TLS", host.tls.clone()),
        ("headers", host.headers.join(", ")),
        ("proxy", host.proxy.clone()),
        ("credentials", host.credentials.clone()),
        ("last error", last_error),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .collect()
}

/// How long ago a time in nanoseconds since 1970 was.
fn ago(at_ns: i64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(at_ns.try_into().unwrap_or_default());
    let seconds = SystemTime::now()
        .duration_since(at)
        .unwrap_or_default()
        .as_secs();
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// An object; what is not there is null.
pub(super) fn json(explained: &ExplainImageResponse) -> String {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let hosts = |found: &ExplainedReference| -> Vec<Value> {
        found
            .hosts
            .iter()
            .map(|host| {
                json!({
                    "url": host.url,
                    "from": host.from,
                    "origin": host.origin,
                    "capabilities": host.capabilities,
                    "skipped": some(&host.skipped),
                    "tls": host.tls,
                    "headers": host.headers,
                    "proxy": some(&host.proxy),
                    "credentials": some(&host.credentials),
                    "lastError": some(&host.last_error),
                    "lastErrorUnixNs": (!host.last_error.is_empty()).then_some(host.last_error_at),
                })
            })
            .collect()
    };
    let references: Vec<Value> = explained
        .references
        .iter()
        .map(|found| {
            json!({
                "reference": found.reference,
                "blocked": some(&found.blocked),
                "policy": some(&found.policy),
                "hosts": hosts(found),
            })
        })
        .collect();
    let value = json!({
        "shortName": some(&explained.short_name),
        "references": references,
    });
    format!("{value:#}")
}

#[cfg(test)]
mod tests {
    use api::admin::{ExplainImageResponse, ExplainedHost, ExplainedReference};
    use serde_json::{Value, json};

    use super::{ago, text};

    fn explained() -> ExplainImageResponse {
        let mirror = ExplainedHost {
            url: "https://m.example/v2/a".to_owned(),
            from: "/r.conf:3".to_owned(),
            skipped: "it is asked for references with a digest only".to_owned(),
            ..ExplainedHost::default()
        };
        let registry = ExplainedHost {
            url: "https://r.example/v2/a".to_owned(),
            from: "/r.conf:1".to_owned(),
            origin: true,
            capabilities: vec!["resolve".to_owned(), "pull".to_owned()],
            tls: "verified by the system's authorities".to_owned(),
            last_error: "no route".to_owned(),
            last_error_at: 1,
            ..ExplainedHost::default()
        };
        ExplainImageResponse {
            short_name: "/r.conf:9".to_owned(),
            references: vec![ExplainedReference {
                reference: "r.example/a:1".to_owned(),
                hosts: vec![mirror, registry],
                ..ExplainedReference::default()
            }],
        }
    }

    #[test]
    fn hosts_are_numbered_in_the_order_of_asking() {
        let shown = text(&explained());
        let shown = shown.replace(&ago(1), "long ago");
        let expected = "\
r.example/a:1
  short name    /r.conf:9
  - https://m.example/v2/a
      from         /r.conf:3
      not asked    it is asked for references with a digest only
 1. https://r.example/v2/a
      from         /r.conf:1
      asked to     resolve, pull
      TLS          verified by the system's authorities
      last error   long ago: no route
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_not_there_is_null() {
        let value: Value = super::json(&explained()).parse().unwrap_or_default();
        let hosts = &value["references"][0]["hosts"];
        assert_eq!(hosts[0]["lastError"], Value::Null);
        assert_eq!(hosts[1]["lastErrorUnixNs"], json!(1));
        assert_eq!(hosts[1]["skipped"], Value::Null);
        assert_eq!(value["shortName"], json!("/r.conf:9"));
    }
}
