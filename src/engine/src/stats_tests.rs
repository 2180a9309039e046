use rstest::rstest;
use spec::model::{PodConfig, PodMetadata};

use super::*;
use crate::samples;

fn pod(uid: &str, parent: &str, own: &[&str]) -> Pod {
    Pod {
        config: Arc::new(PodConfig {
            metadata: PodMetadata {
                name: "web".to_owned(),
                uid: uid.to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            },
            ..PodConfig::default()
        }),
        cgroup_parent: parent.to_owned(),
        own_cgroups: own.iter().map(|path| (*path).to_owned()).collect(),
        ..samples::pod()
    }
}

#[rstest]
#[case::kubelet_cgroupfs("1-2", "/kubepods/burstable/pod1-2", &[], 1, true)]
#[case::kubelet_systemd(
    "1-2",
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
    &[],
    1,
    true
)]
#[case::made_for_this_pod("1-2", "/p", &["/p"], 1, true)]
#[case::an_ancestor_was_made_too("1-2", "/p/q", &["/p/q", "/p"], 1, true)]
#[case::shared_now("1-2", "/p", &["/p"], 2, false)]
#[case::shared_by_name("1-2", "/kubepods/pod1-2", &[], 2, false)]
#[case::was_there_before("1-2", "/kubepods", &[], 1, false)]
#[case::anothers_name("2", "/kubepods/pod1-2", &[], 1, false)]
#[case::no_uid("", "/kubepods", &[], 1, false)]
#[case::uid_in_an_ancestor("1-2", "/pod1-2/all", &[], 1, false)]
fn a_cgroup_is_a_pods_own_only_when_nobody_else_is_in_it(
    #[case] uid: &str,
    #[case] parent: &str,
    #[case] own: &[&str],
    #[case] sharing: usize,
    #[case] wanted: bool,
) {
    let parents = HashMap::from([(parent, sharing)]);
    assert_eq!(has_own_cgroup(&pod(uid, parent, own), &parents), wanted);
}
