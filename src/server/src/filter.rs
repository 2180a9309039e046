//! Which pods, containers and images a list request is about. All conditions that are given must hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::cri;
use engine::{Container, ContainerState, Pod, PodState, World};
use image::Image;
use tonic::Status;

use crate::convert::At;

/// Every pair of the selector is among the object's labels. Labels are looked up last and only for a selector that has
/// pairs: they are far from their object in memory, and to fetch them for each of a thousand objects costs a fifth of a list.
fn selects<'a>(
    selector: &BTreeMap<String, String>,
    labels: impl Fn() -> &'a BTreeMap<String, String>,
) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels().get(name) == Some(value))
}

/// The keys that an id of a filter stands for: a full id, or the beginning of one id only. Anything else is nothing.
fn resolve<'a, K, V>(objects: &'a imbl::OrdMap<K, Arc<V>>, id: &str) -> Option<&'a K>
where
    K: Ord + Clone + std::borrow::Borrow<str>,
{
    let mut matching = objects
        .range::<_, str>((std::ops::Bound::Included(id), std::ops::Bound::Unbounded))
        .map(|(key, _)| key)
        .take_while(|key| (*key).borrow().starts_with(id));
    let first = matching.next()?;
    // Ids have one length, so a full id cannot be the beginning of another.
    matching.next().is_none().then_some(first)
}

/// Pods that match, in the order of their ids.
pub(crate) fn pods(
    world: &World,
    filter: Option<cri::PodSandboxFilter>,
) -> Result<Vec<&Arc<Pod>>, Status> {
    let filter = filter.unwrap_or_default();
    let state = filter
        .state
        .map(|state| match cri::PodSandboxState::try_from(state.state) {
            Ok(cri::PodSandboxState::SandboxReady) => Ok(PodState::Ready),
            Ok(cri::PodSandboxState::SandboxNotready) => Ok(PodState::NotReady),
            Err(_) => Err(At::root("filter.state").refuse("is not a pod's state")),
        })
        .transpose()?;
    let matches = |pod: &&Arc<Pod>| {
        state.is_none_or(|state| pod.state == state)
            && selects(&filter.label_selector, || &pod.config.labels)
    };
    if filter.id.is_empty() {
        return Ok(world.pods.values().filter(matches).collect());
    }
    let pod = resolve(&world.pods, &filter.id).and_then(|id| world.pods.get(id));
    Ok(pod.into_iter().filter(matches).collect())
}

/// Containers that match, in the order of their ids.
pub(crate) fn containers(
    world: &World,
    filter: Option<cri::ContainerFilter>,
) -> Result<Vec<&Arc<Container>>, Status> {
    let filter = filter.unwrap_or_default();
    let state = filter
        .state
        .map(|state| match cri::ContainerState::try_from(state.state) {
            Ok(cri::ContainerState::ContainerCreated) => Ok(ContainerState::Created),
            Ok(cri::ContainerState::ContainerRunning) => Ok(ContainerState::Running),
            Ok(cri::ContainerState::ContainerExited) => Ok(ContainerState::Exited),
            Ok(cri::ContainerState::ContainerUnknown) => Ok(ContainerState::Unknown),
            Err(_) => Err(At::root("filter.state").refuse("is not a container's state")),
        })
        .transpose()?;
    let pod = if filter.pod_sandbox_id.is_empty() {
        None
    } else {
        match resolve(&world.pods, &filter.pod_sandbox_id) {
            Some(pod) => Some(pod),
            None => return Ok(Vec::new()),
        }
    };
    let matches = |container: &&Arc<Container>| {
        state.is_none_or(|state| container.state == state)
            && pod.is_none_or(|pod| container.pod == *pod)
            && selects(&filter.label_selector, || &container.config.labels)
    };
    if filter.id.is_empty() {
        return Ok(world.containers.values().filter(matches).collect());
    }
    let container = resolve(&world.containers, &filter.id).and_then(|id| world.containers.get(id));
    Ok(container.into_iter().filter(matches).collect())
}

/// Running containers that match: others use nothing.
pub(crate) fn running_containers(
    world: &World,
    filter: Option<cri::ContainerStatsFilter>,
) -> Result<Vec<&Arc<Container>>, Status> {
    let filter = filter.unwrap_or_default();
    let running = cri::ContainerState::ContainerRunning.into();
    containers(
        world,
        Some(cri::ContainerFilter {
            id: filter.id,
            state: Some(cri::ContainerStateValue { state: running }),
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
        }),
    )
}

/// Ready pods that match: others use nothing.
pub(crate) fn ready_pods(
    world: &World,
    filter: Option<cri::PodSandboxStatsFilter>,
) -> Result<Vec<&Arc<Pod>>, Status> {
    let filter = filter.unwrap_or_default();
    let ready = cri::PodSandboxState::SandboxReady.into();
    pods(
        world,
        Some(cri::PodSandboxFilter {
            id: filter.id,
            state: Some(cri::PodSandboxStateValue { state: ready }),
            label_selector: filter.label_selector,
        }),
    )
}

/// The name or id that a filter asks for; `None` for all images.
pub(crate) fn image_name(filter: Option<cri::ImageFilter>) -> Option<String> {
    filter
        .and_then(|filter| filter.image)
        .map(|image| image.image)
        .filter(|name| !name.is_empty())
}

/// Images that match.
pub(crate) fn images(images: &image::Images, filter: Option<cri::ImageFilter>) -> Vec<Arc<Image>> {
    match image_name(filter) {
        Some(name) => images.get(&name).into_iter().collect(),
        None => images.list(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;
    use crate::samples;

    /// Pods `a1…`, `a2…` and `b…`; each with a container of the same id.
    fn world() -> World {
        let mut world = World::default();
        for (start, app, ready) in [("a1", "web", true), ("a2", "web", false), ("b", "db", true)] {
            let labels = [("app", app), ("tier", "x")];
            let mut pod = samples::pod(start, &labels);
            let mut container = samples::container(start, start, &labels);
            if !ready {
                pod.state = PodState::NotReady;
                container.state = ContainerState::Exited;
            }
            world.pods.insert(pod.id.clone(), Arc::new(pod));
            world
                .containers
                .insert(container.id.clone(), Arc::new(container));
        }
        world
    }

    fn selector(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[rstest]
    #[case::everything("", None, &[], &["a1", "a2", "b"])]
    #[case::beginning_of_one("b", None, &[], &["b"])]
    #[case::beginning_of_two("a", None, &[], &[])]
    #[case::unknown("c", None, &[], &[])]
    #[case::no_id("../x", None, &[], &[])]
    #[case::ready("", Some(0), &[], &["a1", "b"])]
    #[case::not_ready("", Some(1), &[], &["a2"])]
    #[case::label("", None, &[("app", "web")], &["a1", "a2"])]
    #[case::two_labels("", None, &[("app", "web"), ("tier", "x")], &["a1", "a2"])]
    #[case::one_label_too_many("", None, &[("app", "web"), ("no", "x")], &[])]
    #[case::all_of_it("a1", Some(0), &[("app", "web")], &["a1"])]
    #[case::contradiction("a2", Some(0), &[], &[])]
    fn pods_match_all_conditions(
        #[case] id: &str,
        #[case] state: Option<i32>,
        #[case] labels: &[(&str, &str)],
        #[case] wanted: &[&str],
    ) {
        let world = world();
        let filter = cri::PodSandboxFilter {
            id: id.to_owned(),
            state: state.map(|state| cri::PodSandboxStateValue { state }),
            label_selector: selector(labels),
        };
        let found = pods(&world, Some(filter)).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|pod| pod.id.as_str().trim_end_matches('0'))
            .collect();
        assert_eq!(found, wanted);
    }

    #[rstest]
    #[case::everything("", "", None, &[], &["a1", "a2", "b"])]
    #[case::beginning_of_one("b", "", None, &[], &["b"])]
    #[case::beginning_of_two("a", "", None, &[], &[])]
    #[case::pod("", "a2", None, &[], &["a2"])]
    #[case::beginning_of_two_pods("", "a", None, &[], &[])]
    #[case::other_pod("a1", "b", None, &[], &[])]
    #[case::exited("", "", Some(2), &[], &["a2"])]
    #[case::unknown_state("", "", Some(3), &[], &[])]
    #[case::label("", "", None, &[("app", "db")], &["b"])]
    #[case::all_of_it("a1", "a1", Some(1), &[("app", "web")], &["a1"])]
    fn containers_match_all_conditions(
        #[case] id: &str,
        #[case] pod: &str,
        #[case] state: Option<i32>,
        #[case] labels: &[(&str, &str)],
        #[case] wanted: &[&str],
    ) {
        let world = world();
        let filter = cri::ContainerFilter {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            state: state.map(|state| cri::ContainerStateValue { state }),
            label_selector: selector(labels),
        };
        let found = containers(&world, Some(filter)).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|c| c.id.as_str().trim_end_matches('0'))
            .collect();
        assert_eq!(found, wanted);
    }

    #[rstest]
    #[case::everything("", "", &[], &["a1", "b"])]
    #[case::beginning_of_one("b", "", &[], &["b"])]
    #[case::exited("a2", "", &[], &[])]
    #[case::pod("", "a1", &[], &["a1"])]
    #[case::label("", "", &[("app", "web")], &["a1"])]
    #[case::other_pod("b", "a1", &[], &[])]
    fn statistics_are_of_what_runs(
        #[case] id: &str,
        #[case] pod: &str,
        #[case] labels: &[(&str, &str)],
        #[case] wanted: &[&str],
    ) {
        let world = world();
        let filter = cri::ContainerStatsFilter {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            label_selector: selector(labels),
        };
        let found = running_containers(&world, Some(filter)).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|c| c.id.as_str().trim_end_matches('0'))
            .collect();
        assert_eq!(found, wanted);
        if pod.is_empty() {
            let filter = cri::PodSandboxStatsFilter {
                id: id.to_owned(),
                label_selector: selector(labels),
            };
            let found = ready_pods(&world, Some(filter)).unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|pod| pod.id.as_str().trim_end_matches('0'))
                .collect();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_state_that_does_not_exist_is_refused() {
        let filter = cri::PodSandboxFilter {
            state: Some(cri::PodSandboxStateValue { state: 2 }),
            ..cri::PodSandboxFilter::default()
        };
        let error = pods(&world(), Some(filter)).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        let filter = cri::ContainerFilter {
            state: Some(cri::ContainerStateValue { state: 4 }),
            ..cri::ContainerFilter::default()
        };
        assert!(containers(&world(), Some(filter)).is_err());
    }
}
