//! Which AppArmor profile a process runs under.

use crate::defaults::SpecDefaults;
use crate::error::SpecError;
use crate::input::NodeFacts;
use crate::model::SecurityProfile;

/// The profile's name; `None` means none. A client that says nothing gets the runtime's default where there is one, but
/// for a privileged container, which then has none.
pub(crate) fn profile(
    asked: Option<&SecurityProfile>,
    field: &'static str,
    privileged: bool,
    defaults: &SpecDefaults,
    facts: &NodeFacts,
) -> Result<Option<String>, SpecError> {
    match asked {
        Some(SecurityProfile::Localhost(name)) => {
            let fine = !name.is_empty()
                && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
            if !fine {
                return Err(SpecError::AppArmorName {
                    field,
                    profile: name.chars().take(128).collect(),
                });
            }
            if !facts.apparmor {
                return Err(SpecError::NoAppArmor {
                    field,
                    profile: name.clone(),
                });
            }
            Ok(Some(name.clone()))
        }
        Some(SecurityProfile::Unconfined) => Ok(None),
        Some(SecurityProfile::RuntimeDefault) | None if privileged => Ok(None),
        Some(SecurityProfile::RuntimeDefault) | None => {
            Ok(defaults.apparmor.clone().filter(|_| facts.apparmor))
        }
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;
    use crate::container::sample;

    fn localhost(name: &str) -> SecurityProfile {
        SecurityProfile::Localhost(name.to_owned())
    }

    #[rstest]
    #[case(None, false, true, Some("pintle-default"))]
    #[case(None, false, false, None)]
    #[case(None, true, true, None)]
    #[case(
        Some(SecurityProfile::RuntimeDefault),
        false,
        true,
        Some("pintle-default")
    )]
    #[case(Some(SecurityProfile::RuntimeDefault), false, false, None)]
    #[case(Some(SecurityProfile::Unconfined), false, true, None)]
    #[case(Some(localhost("mine")), false, true, Some("mine"))]
    #[case(Some(localhost("mine")), true, true, Some("mine"))]
    fn profiles(
        #[case] asked: Option<SecurityProfile>,
        #[case] privileged: bool,
        #[case] apparmor: bool,
        #[case] expected: Option<&str>,
    ) {
        let defaults = SpecDefaults {
            apparmor: Some("pintle-default".to_owned()),
            ..SpecDefaults::default()
        };
        let facts = NodeFacts {
            apparmor,
            ..sample::facts()
        };
        let found = profile(asked.as_ref(), "field", privileged, &defaults, &facts).unwrap();
        assert_eq!(found.as_deref(), expected);
    }

    #[rstest]
    #[case("mine", false)]
    #[case("", true)]
    #[case("a b", true)]
    #[case("a\0", true)]
    fn impossible_profiles(#[case] name: &str, #[case] apparmor: bool) {
        let facts = NodeFacts {
            apparmor,
            ..sample::facts()
        };
        let asked = localhost(name);
        assert!(profile(Some(&asked), "f", false, &SpecDefaults::default(), &facts).is_err());
    }
}
