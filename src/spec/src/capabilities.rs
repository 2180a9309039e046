//! Which capabilities a container holds.
//!
//! Bounding, effective and permitted are the same set; inheritable and ambient hold only what the client asked to be
//! ambient (an inheritable set that a container did not ask for survives into programs of other users).
//!
//! Order of the rules: start from the defaults; `ALL` added, then `ALL` dropped; then single additions, then single
//! drops. So `drop: [ALL], add: [NET_BIND_SERVICE]` is exactly one capability whatever the order of the request.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::capability::Capability;
use crate::defaults::SpecDefaults;
use crate::error::SpecError;
use crate::input::NodeFacts;
use crate::model::CapabilityChanges;

/// What a container holds.
#[derive(Debug)]
pub(crate) struct Held {
    /// Bounding, effective, permitted.
    pub(crate) all: BTreeSet<Capability>,
    /// Ambient, inheritable.
    pub(crate) ambient: BTreeSet<Capability>,
}

impl Held {
    pub(crate) fn none() -> Self {
        Self {
            all: BTreeSet::new(),
            ambient: BTreeSet::new(),
        }
    }

    pub(crate) fn oci(&self) -> Result<LinuxCapabilities, SpecError> {
        let set = |capabilities: &BTreeSet<Capability>| -> Capabilities {
            capabilities.iter().map(|c| c.oci()).collect()
        };
        Ok(LinuxCapabilitiesBuilder::default()
            .bounding(set(&self.all))
            .effective(set(&self.all))
            .permitted(set(&self.all))
            .inheritable(set(&self.ambient))
            .ambient(set(&self.ambient))
            .build()?)
    }
}

/// One list of the request, with `ALL` told apart.
struct Asked {
    all: bool,
    named: BTreeSet<Capability>,
}

fn parse(list: &'static str, words: &[String]) -> Result<Asked, SpecError> {
    let mut asked = Asked {
        all: false,
        named: BTreeSet::new(),
    };
    for word in words {
        if word.eq_ignore_ascii_case("ALL") || word.eq_ignore_ascii_case("CAP_ALL") {
            asked.all = true;
        } else {
            let capability = word.parse().map_err(|_| SpecError::UnknownCapability {
                list,
                name: word.clone(),
            })?;
            asked.named.insert(capability);
        }
    }
    Ok(asked)
}

/// Decides what a container holds. What it asks for in general (`ALL`, privileged, the defaults) is clamped to what the
/// node has; what it asks for by name must be there.
pub(crate) fn held(
    changes: &CapabilityChanges,
    privileged: bool,
    defaults: &SpecDefaults,
    facts: &NodeFacts,
    warnings: &mut Vec<String>,
) -> Result<Held, SpecError> {
    let add = parse("add_capabilities", &changes.add)?;
    let drop = parse("drop_capabilities", &changes.drop)?;
    let ambient = parse("add_ambient_capabilities", &changes.add_ambient)?;
    for (list, asked) in [
        ("add_capabilities", &add),
        ("add_ambient_capabilities", &ambient),
    ] {
        // A privileged container asks for everything anyway, so naming one adds no stronger wish.
        let missing = asked.named.difference(&facts.capabilities).next();
        if let (false, Some(&capability)) = (privileged, missing) {
            return Err(SpecError::CapabilityMissing { list, capability });
        }
    }

    let everything: BTreeSet<Capability> = Capability::ALL.iter().copied().collect();
    let mut wanted = if privileged || (add.all && !drop.all) {
        everything.clone()
    } else if drop.all {
        BTreeSet::new()
    } else {
        defaults.capabilities.iter().copied().collect()
    };
    if !privileged {
        wanted.extend(&add.named);
        wanted = &wanted - &drop.named;
    }
    let mut ambient = if ambient.all {
        everything
    } else {
        ambient.named
    };
    if !privileged {
        ambient = &ambient - &drop.named;
    }
    wanted.extend(&ambient);

    let missing: Vec<&str> = wanted
        .difference(&facts.capabilities)
        .map(|capability| capability.name())
        .collect();
    if !missing.is_empty() {
        warnings.push(format!(
            "capabilities without {}, which the server itself does not hold",
            missing.join(", ")
        ));
    }
    Ok(Held {
        all: &wanted & &facts.capabilities,
        ambient: &ambient & &facts.capabilities,
    })
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;
    use crate::container::sample;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn changes(add: &str, drop: &str, ambient: &str) -> CapabilityChanges {
        CapabilityChanges {
            add: words(add),
            drop: words(drop),
            add_ambient: words(ambient),
        }
    }

    /// A node like a container: it lacks `CAP_SYS_RESOURCE` itself.
    fn poor_node() -> NodeFacts {
        let mut facts = sample::facts();
        facts.capabilities.remove(&Capability::SysResource);
        facts
    }

    fn decided(
        asked: &CapabilityChanges,
        privileged: bool,
        facts: &NodeFacts,
    ) -> (Held, Vec<String>) {
        let mut warnings = Vec::new();
        let defaults = SpecDefaults::default();
        let held = held(asked, privileged, &defaults, facts, &mut warnings).unwrap();
        (held, warnings)
    }

    #[rstest]
    #[case("", "", 14)]
    #[case("NET_ADMIN", "", 15)]
    #[case("CHOWN", "", 14)]
    #[case("", "CHOWN", 13)]
    #[case("", "SYS_ADMIN", 14)]
    #[case("", "ALL", 0)]
    #[case("ALL", "", 41)]
    #[case("ALL", "NET_ADMIN", 40)]
    #[case("NET_BIND_SERVICE", "ALL", 1)]
    #[case("all net_bind_service", "cap_all", 1)]
    #[case("NET_ADMIN", "NET_ADMIN", 14)]
    fn changes_are_applied(#[case] add: &str, #[case] drop: &str, #[case] count: usize) {
        let (held, warnings) = decided(&changes(add, drop, ""), false, &sample::facts());
        assert_eq!(held.all.len(), count);
        assert!(held.ambient.is_empty());
        assert!(warnings.is_empty());
    }

    #[test]
    fn ambient_ones_are_in_every_set() {
        let (held, _) = decided(&changes("", "ALL", "NET_ADMIN"), false, &sample::facts());
        assert_eq!(held.all, [Capability::NetAdmin].into());
        assert_eq!(held.ambient, held.all);
        let (held, _) = decided(
            &changes("", "NET_ADMIN", "NET_ADMIN"),
            false,
            &sample::facts(),
        );
        assert!(held.ambient.is_empty());
        assert!(!held.all.contains(&Capability::NetAdmin));
    }

    #[test]
    fn privileged_is_everything_whatever_else_is_said() {
        let (held, _) = decided(&changes("", "ALL", ""), true, &sample::facts());
        assert_eq!(held.all.len(), Capability::ALL.len());
    }

    #[rstest]
    #[case("ALL", false)]
    #[case("", true)]
    #[case("SYS_RESOURCE", true)]
    fn general_wishes_are_clamped_to_the_node(#[case] add: &str, #[case] privileged: bool) {
        let (held, warnings) = decided(&changes(add, "", ""), privileged, &poor_node());
        assert_eq!(held.all.len(), Capability::ALL.len() - 1);
        assert_eq!(
            warnings,
            ["capabilities without CAP_SYS_RESOURCE, which the server itself does not hold"]
        );
    }

    #[rstest]
    #[case("SYS_RESOURCE", "", "", "add_capabilities: CAP_SYS_RESOURCE is not in")]
    #[case(
        "",
        "",
        "SYS_RESOURCE",
        "add_ambient_capabilities: CAP_SYS_RESOURCE is not in"
    )]
    #[case("FLY", "", "", "add_capabilities: \"FLY\" is not a capability")]
    #[case("", "FLY", "", "drop_capabilities: \"FLY\" is not a capability")]
    #[case("", "", "FLY", "add_ambient_capabilities: \"FLY\" is not a capability")]
    fn wishes_by_name_are_granted_or_refused(
        #[case] add: &str,
        #[case] drop: &str,
        #[case] ambient: &str,
        #[case] message: &str,
    ) {
        let error = held(
            &changes(add, drop, ambient),
            false,
            &SpecDefaults::default(),
            &poor_node(),
            &mut Vec::new(),
        )
        .unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}
