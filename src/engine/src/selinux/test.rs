#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;

use rstest::rstest;
use spec::{
    model::{PodSecurity, SelinuxLabel},
    selinux::Guest,
};

use super::*;

fn config(enabled: Option<bool>, categories: u16) -> SelinuxConfig {
    SelinuxConfig {
        enabled,
        categories,
    }
}

fn selinux(categories: u16) -> Selinux {
    Selinux::new(Policy {
        mode: Mode::Enforcing,
        labels: PolicyLabels::default(),
        categories,
    })
}

fn pod_config(level: &str) -> PodConfig {
    PodConfig {
        security: PodSecurity {
            selinux: SelinuxLabel {
                level: level.to_owned(),
                ..SelinuxLabel::default()
            },
            ..PodSecurity::default()
        },
        ..PodConfig::default()
    }
}

/// A world whose pods have these levels.
fn world(levels: &[&str]) -> Arc<World> {
    let mut world = World::default();
    for level in levels {
        let labels = spec::selinux::pod(
            &pod_config(level).security,
            &PolicyLabels::default(),
            "",
            Guest::Processes,
        );
        let pod = Pod {
            selinux: Some(labels),
            ..crate::samples::pod()
        };
        world.pods.insert(pod.id.clone(), Arc::new(pod));
    }
    Arc::new(world)
}

#[rstest]
#[case::off_in_the_kernel(None, None, &[], Err(Unused::Inactive))]
#[case::wanted_and_off_in_the_kernel(Some(true), None, &[], Err(Unused::Inactive))]
#[case::active(None, Some(Mode::Permissive), &[], Ok(1024))]
#[case::turned_off(Some(false), Some(Mode::Enforcing), &[], Err(Unused::TurnedOff))]
#[case::no_containers(
    None,
    Some(Mode::Enforcing),
    &["container_t"],
    Err(Unused::Unknown("system_u:system_r:container_t:s0:c1022,c1023".to_owned()))
)]
#[case::no_files(
    Some(true),
    Some(Mode::Enforcing),
    &["container_file_t"],
    Err(Unused::Unknown("system_u:object_r:container_file_t:s0:c1022,c1023".to_owned()))
)]
fn selinux_is_used_where_it_is_active_and_knows_containers(
    #[case] enabled: Option<bool>,
    #[case] mode: Option<Mode>,
    #[case] unknown: &[&str],
    #[case] expected: Result<u16, Unused>,
) {
    let knows = |context: &str| !unknown.iter().any(|kind| context.contains(kind));
    let found = judge(config(enabled, 1024), mode, PolicyLabels::default(), knows);
    assert_eq!(found.map(|policy| policy.categories), expected);
}

#[test]
fn a_policy_without_levels_gives_no_categories() {
    let labels = PolicyLabels::parse("process = \"u:r:t\"\nfile = \"u:object_r:f\"");
    let policy = judge(
        config(None, 1024),
        Some(Mode::Enforcing),
        labels,
        |context| context.matches(':').count() == 2,
    )
    .unwrap();
    assert_eq!(policy.categories, 0);
    let selinux = Selinux::new(policy);
    let (labels, taken) = selinux
        .pod(&PodId::random(), &pod_config(""), Guest::Processes, || {
            world(&[])
        })
        .unwrap();
    assert!(taken.is_none());
    assert_eq!(labels.process().as_deref(), Some("u:r:t"));
}

#[rstest]
#[case("# x\nSELINUX=enforcing\nSELINUXTYPE=targeted\n", Some("targeted"))]
#[case("  SELINUXTYPE=default  ", Some("default"))]
#[case("#SELINUXTYPE=x", None)]
#[case("SELINUXTYPE=../../tmp", None)]
#[case("", None)]
fn the_policys_name_is_read(#[case] text: &str, #[case] expected: Option<&str>) {
    assert_eq!(policy_name(text), expected);
}

#[test]
fn every_pair_is_given_once_and_then_none() {
    // Three categories: three pairs.
    let selinux = selinux(3);
    let taken: Vec<_> = (0..3)
        .map(|_| selinux.take(7, || world(&[])).unwrap())
        .collect();
    let different: HashSet<_> = taken.iter().map(|taken| taken.categories).collect();
    assert_eq!(different.len(), 3);
    assert!(selinux.take(7, || world(&[])).is_none());
    let error = selinux
        .pod(&PodId::random(), &pod_config(""), Guest::Processes, || {
            world(&[])
        })
        .unwrap_err();
    assert!(matches!(error, EngineError::NoCategories { below: 3 }));
    // A level of the pod's own takes none.
    let own = selinux.pod(
        &PodId::random(),
        &pod_config("s0:c9,c10"),
        Guest::Processes,
        || world(&[]),
    );
    assert_eq!(own.unwrap().0.label.level, "s0:c9,c10");
    drop(taken);
    assert!(selinux.take(7, || world(&[])).is_some(), "given back");
}

#[test]
fn what_is_on_record_is_in_use() {
    let selinux = selinux(3);
    // In any order, and beside levels that are no pairs.
    let world = || world(&["s0:c1,c0", "s0:c1,c2", "s0", "s0:c0.c2"]);
    let taken = selinux.take(0, world).unwrap();
    assert_eq!(taken.categories.to_string(), "s0:c0,c2");
    assert!(selinux.take(0, world).is_none());
}

#[test]
fn categories_of_a_containers_own_are_in_use_too() {
    let selinux = selinux(2);
    let with_container = || {
        let mut world = World::default();
        let pod = world_pod();
        let container = crate::world::Container {
            selinux: Some(spec::selinux::pod(
                &pod_config("s0:c0,c1").security,
                &PolicyLabels::default(),
                "",
                Guest::Processes,
            )),
            ..crate::samples::container(&pod.id)
        };
        world
            .containers
            .insert(container.id.clone(), Arc::new(container));
        Arc::new(world)
    };
    assert!(selinux.take(0, with_container).is_none());
    assert!(selinux.take(0, || world(&[])).is_some());
}

fn world_pod() -> Pod {
    crate::samples::pod()
}

#[test]
fn pods_begin_at_places_of_their_own() {
    let selinux = selinux(1024);
    let levels: HashSet<_> = (0..20)
        .map(|_| {
            let id = PodId::random();
            let made = selinux.pod(&id, &pod_config(""), Guest::Processes, || world(&[]));
            // Dropped at once: only chance tells them from each other.
            made.unwrap().0.label.level
        })
        .collect();
    assert!(levels.len() > 10, "{levels:?}");
}

#[test]
fn labels_that_the_policy_lacks_are_refused_by_the_field_and_others_are_canonical() {
    let labels = spec::selinux::pod(
        &pod_config("s0:c2,c1").security,
        &PolicyLabels::default(),
        "",
        Guest::Processes,
    );
    let canonical = |text: &str| Ok(Some(text.replace("c2,c1", "c1,c2")));
    let found = known(labels.clone(), canonical).unwrap();
    assert_eq!(found.label.level, "s0:c1,c2");
    assert_eq!(found.files.level, "s0:c1,c2");
    let error = known(labels.clone(), |_| Ok(None)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "config.linux.security_context.selinux_options: the policy of this node does not have all that is in \
         system_u:system_r:container_t:s0:c2,c1"
    );
    // What nothing runs under need not be known.
    let unconfined = SelinuxContext {
        confined: false,
        ..labels
    };
    let only_files = |text: &str| Ok(text.contains("object_r").then(|| text.to_owned()));
    assert_eq!(known(unconfined.clone(), only_files).unwrap(), unconfined);
}
