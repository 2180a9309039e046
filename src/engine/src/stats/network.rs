//! Which interface of a pod is the one that counts.

use super::{
    parse,
    reading::{Interface, NetworkUse},
};

/// What CNI plugins are told to call the pod's interface.
const DEFAULT_NAME: &str = "eth0";

/// Traffic of a pod with itself is none of the node's.
const LOOPBACK: &str = "lo";

/// The interfaces that `/proc/net/dev` of a pod tells of.
pub(super) fn usage(text: &str, at_unix_ns: i64) -> NetworkUse {
    let mut others: Vec<Interface> = parse::net_dev(text);
    others.retain(|interface| interface.name != LOOPBACK);
    let default = others
        .iter()
        .position(|interface| interface.name == DEFAULT_NAME)
        // Without one of that name, the one that was made first.
        .or((!others.is_empty()).then_some(0))
        .map(|at| others.remove(at));
    NetworkUse {
        at_unix_ns,
        default,
        others,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&["lo"], None, &[])]
    #[case(&[], None, &[])]
    #[case(&["lo", "eth0"], Some("eth0"), &[])]
    #[case(&["lo", "net1", "eth0", "net2"], Some("eth0"), &["net1", "net2"])]
    #[case(&["net1", "lo", "net2"], Some("net1"), &["net2"])]
    fn one_is_the_default(
        #[case] names: &[&str],
        #[case] default: Option<&str>,
        #[case] others: &[&str],
    ) {
        let mut lines = vec!["header".to_owned(), "header | with bars".to_owned()];
        lines.extend(
            names
                .iter()
                .map(|name| format!("{name}: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16")),
        );
        let found = usage(&lines.join("\n"), 7);
        assert_eq!(found.at_unix_ns, 7);
        assert_eq!(
            found
                .default
                .as_ref()
                .map(|interface| interface.name.as_str()),
            default
        );
        let names: Vec<_> = found.others.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, others);
    }
}
