//! What can be wrong with a pod, told before anything is made for it.

use crate::cgroup::CgroupName;
use crate::defaults::SpecDefaults;
use crate::error::SpecError;
use crate::input::NodeFacts;
use crate::model::PodConfig;
use crate::{apparmor, namespaces, sysctl, user};

/// Whether a pod like this can be made here. Pods without a pause container have no spec that would tell.
pub fn check_pod(
    pod: &PodConfig,
    facts: &NodeFacts,
    defaults: &SpecDefaults,
) -> Result<(), SpecError> {
    let security = &pod.security;
    namespaces::check_pod(&security.namespaces)?;
    namespaces::hostname(pod, &facts.hostname)?;
    let user = user::resolve(&security.run_as, "", None, None)?;
    namespaces::check_ids(&security.namespaces, &user)?;
    sysctl::effective(pod, &defaults.sysctls)?;
    apparmor::profile(
        security.apparmor.as_ref(),
        "config.linux.security_context.apparmor",
        security.privileged,
        defaults,
        facts,
    )?;
    CgroupName::new(facts.systemd_cgroup, &pod.cgroup_parent, "id")?;
    Ok(())
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;
    use crate::container::sample;
    use crate::model::{NamespaceMode, SecurityProfile};

    #[rstest]
    #[case(|pod: &mut PodConfig| pod.hostname = "a b".to_owned(), "config.hostname")]
    #[case(|pod: &mut PodConfig| pod.security.namespaces.network = NamespaceMode::Container, "namespace_options.network")]
    #[case(|pod: &mut PodConfig| pod.security.run_as.group = Some(1), "run_as_group")]
    #[case(|pod: &mut PodConfig| pod.sysctls = [("vm.x".to_owned(), String::new())].into(), "sysctls[vm.x]")]
    #[case(|pod: &mut PodConfig| pod.security.apparmor = Some(SecurityProfile::Localhost("x".to_owned())), "apparmor")]
    #[case(|pod: &mut PodConfig| pod.cgroup_parent = "/a/../b".to_owned(), "cgroup_parent")]
    fn each_fault_names_its_field(#[case] spoil: fn(&mut PodConfig), #[case] field: &str) {
        let mut pod = PodConfig::default();
        check_pod(&pod, &sample::facts(), &SpecDefaults::default()).unwrap();
        spoil(&mut pod);
        let error = check_pod(&pod, &sample::facts(), &SpecDefaults::default()).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}
