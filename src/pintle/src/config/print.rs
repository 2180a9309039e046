//! The configuration as YAML with every key's documentation in front of it.

use std::fmt::Write;

use super::{
    Config,
    scalars::quoted,
    setting::{Setting, Shown, ShownKey},
};

/// Columns of a comment.
const WIDTH: usize = 100;

/// The configuration in YAML that reads back to the same values.
pub(crate) fn to_yaml(config: &Config) -> String {
    let mut out = String::from(
        "# Configuration of Pintle: /etc/pintle/config.yaml, then /etc/pintle/conf.d/*.yaml in the order of their names.\n\
         # Maps of several files are merged key by key, lists are replaced. Null restores the default\n\
         # and takes an entry out of a map.\n\
         # Keys marked [live] are taken over by a running server on SIGHUP (systemctl reload pintle).\n",
    );
    if let Shown::Section(keys) = config.shown() {
        for key in &keys {
            out.push('\n');
            print_key(&mut out, key, "", true);
        }
    }
    out
}

/// The same values as JSON.
pub(crate) fn to_json(config: &Config) -> serde_json::Value {
    value_of(&config.shown())
}

fn value_of(shown: &Shown) -> serde_json::Value {
    use serde_json::Value;
    // A scalar is kept as its YAML text, which is a JSON value or a plain word.
    let scalar = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    match shown {
        Shown::Scalar(text) => scalar(text),
        Shown::List(items) => items.iter().map(|item| scalar(item)).collect(),
        Shown::Map { entries, .. } => entries
            .iter()
            .map(|(name, value)| (name.clone(), value_of(value)))
            .collect(),
        Shown::Section(keys) => keys
            .iter()
            .map(|key| (key.name.to_owned(), value_of(&key.value)))
            .collect(),
    }
}

/// `documented` is false for the second and later entries of a map, which need not explain the same keys again.
fn print_key(out: &mut String, key: &ShownKey, indent: &str, documented: bool) {
    if documented {
        let text: Vec<&str> = key.doc.iter().map(|line| line.trim()).collect();
        let mark = if key.live { " [live]" } else { "" };
        for line in wrap(&format!("{}{mark}", text.join(" ")), WIDTH - indent.len()) {
            push(out, &format!("{indent}# {line}"));
        }
    }
    print_value(out, key.name, &key.value, indent, documented);
}

fn print_value(out: &mut String, name: &str, value: &Shown, indent: &str, documented: bool) {
    let deeper = format!("{indent}  ");
    match value {
        Shown::Scalar(text) => push(out, &format!("{indent}{name}: {text}")),
        Shown::List(items) if items.is_empty() => push(out, &format!("{indent}{name}: []")),
        Shown::List(items) => {
            push(out, &format!("{indent}{name}:"));
            for item in items {
                push(out, &format!("{deeper}- {item}"));
            }
        }
        Shown::Section(keys) => {
            push(out, &format!("{indent}{name}:"));
            for key in keys {
                print_key(out, key, &deeper, documented);
            }
        }
        Shown::Map { entries, example } if entries.is_empty() => {
            push(out, &format!("{indent}{name}: {{}}"));
            if let Some((example, value)) = example.as_ref().filter(|_| documented) {
                let mut sample = String::new();
                print_value(&mut sample, &quoted(example), value, "", true);
                for line in sample.lines() {
                    push(out, format!("{deeper}# {line}").trim_end());
                }
            }
        }
        Shown::Map { entries, .. } => {
            push(out, &format!("{indent}{name}:"));
            for (index, (entry, value)) in entries.iter().enumerate() {
                print_value(
                    out,
                    &quoted(entry),
                    value,
                    &deeper,
                    documented && index == 0,
                );
            }
        }
    }
}

fn push(out: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{line}");
}

/// Breaks `text` between words into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::path::Path;

    use super::to_yaml;
    use crate::config::{self, Config, node::Node};

    fn read(text: &str) -> Config {
        let node = Node::parse(text, Path::new("/c.yaml")).unwrap();
        config::from_tree(&node).unwrap()
    }

    #[test]
    fn printed_defaults_read_back_to_the_same_values() {
        assert_eq!(read(&to_yaml(&Config::default())), Config::default());
    }

    #[test]
    fn printed_values_of_every_shape_read_back() {
        let config = read(
            "socket: '/run/a b/x.sock'\n\
             log: {level: 'info,pintle_image=debug', format: json}\n\
             default_runtime: 'yes'\n\
             runtimes:\n  runc: null\n  \"yes\": {path: /usr/bin/kata-runtime, args: [--debug, 'a \"b\"'], sandbox: container}\n\
             image:\n  registries:\n    'registry.example:5000': {plain_http: true, mirrors: [a.example, 'b.example:443']}\n  \
               max_layer_size: 1025\n  stall_timeout: 1h0m1s\n  \
               proxy: {http: none, https: 'http://proxy.example:3128', no_proxy: '.example,10.0.0.0/8'}\n\
             containers:\n  default_ulimits: {nofile: 1024:65536, core: 0, memlock: unlimited}\n  \
               default_sysctls: {net.core.somaxconn: 1024, net.ipv4.ping_group_range: '0 2147483647'}\n  pids_limit: 99\n",
        );
        assert_eq!(read(&to_yaml(&config)), config);
        assert_eq!(
            config.containers.default_sysctls.0["net.core.somaxconn"],
            "1024"
        );
        assert!(!config.runtimes.contains_key("runc"));
    }

    #[test]
    fn every_key_is_explained_and_no_line_is_long() {
        let text = to_yaml(&Config::default());
        let mut keys = Vec::new();
        <Config as config::setting::Setting>::keys("", &mut keys);
        for key in keys {
            let name = key.rsplit('.').next().unwrap().to_owned() + ":";
            assert!(text.contains(&name), "{key} is not printed");
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 120, "too long: {line}");
        }
    }

    #[test]
    fn the_example_file_is_the_printed_default() {
        // Regenerate it with `pintle config --defaults > contrib/config.yaml`.
        let example = include_str!("../../../../contrib/config.yaml");
        assert_eq!(example, to_yaml(&Config::default()));
    }
}
