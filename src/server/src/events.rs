//! GetContainerEvents: the stream of what happens to pods and containers.
//!
//! The stream begins with its headers: from then on nothing is missed. It has no end of its own; it ends when the client
//! goes, when it reads too slowly ([`Code::ResourceExhausted`]: what it missed was dropped, so it has to list and subscribe
//! anew), and when the server shuts down ([`Code::Unavailable`]: subscribe at the next one). Nothing is written down for a
//! client, so resuming is subscribing and then listing, in this order; what stopped while no server ran is told by the next
//! one, see [`engine::LifeEvent`].

use api::cri;
use engine::{LifeEvent, LifeEventKind, Subscription};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tonic::{Code, Request, Response, Status};

use crate::connections::Closing;
use crate::describe;
use crate::errors::status;
use crate::face::Face;

/// The reply of GetContainerEvents.
pub(crate) type Events = BoxStream<'static, Result<cri::ContainerEventResponse, Status>>;

impl Face {
    pub(crate) fn events(&self, request: &Request<cri::GetEventsRequest>) -> Response<Events> {
        let closing = Closing::of(request);
        Response::new(follow(self.engine.subscribe(), closing))
    }
}

/// All events of a subscription, until it or the server ends.
fn follow(subscription: Subscription, closing: Closing) -> Events {
    stream::unfold(Some((subscription, closing)), |state| async move {
        let (mut subscription, closing) = state?;
        let next = tokio::select! {
            // What happened before the end is told before the end.
            biased;
            next = subscription.next() => match next {
                Ok(Some(event)) => Ok(message(&event)),
                Ok(None) => return None,
                Err(lost) => Err(status(
                    Code::ResourceExhausted,
                    &format!(
                        "{} events were dropped, for they were not read quickly enough: subscribe again and list",
                        lost.events
                    ),
                )),
            },
            () = closing.comes() => Err(status(
                Code::Unavailable,
                "the server shuts down: subscribe again and list",
            )),
        };
        // An error is the last that a stream says.
        let state = next.is_ok().then_some((subscription, closing));
        Some((next, state))
    })
    .boxed()
}

fn message(event: &LifeEvent) -> cri::ContainerEventResponse {
    let kind = match event.kind {
        LifeEventKind::Created => cri::ContainerEventType::ContainerCreatedEvent,
        LifeEventKind::Started => cri::ContainerEventType::ContainerStartedEvent,
        LifeEventKind::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        LifeEventKind::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    let pod = event.pod.as_ref();
    cri::ContainerEventResponse {
        container_id: event.subject.id().to_owned(),
        container_event_type: kind.into(),
        created_at: event.at_unix_ns,
        // The kubelet drops its memory of a pod when it is told of its end with the status, and ignores events without one.
        pod_sandbox_status: pod.map(|pod| describe::pod_status(pod)),
        containers_statuses: pod.map_or_else(Vec::new, |pod| {
            event
                .world
                .containers_of(&pod.id)
                .map(|container| describe::container_status(container))
                .collect()
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::{LifeSubject, World};

    use super::*;
    use crate::samples;

    #[test]
    fn an_event_has_the_statuses_of_its_world() {
        let pod = Arc::new(samples::pod("a", &[]));
        let container = Arc::new(samples::container("c", "a", &[]));
        let other = Arc::new(samples::container("d", "b", &[]));
        let mut world = World::default();
        world.pods.insert(pod.id.clone(), Arc::clone(&pod));
        for container in [&container, &other] {
            world
                .containers
                .insert(container.id.clone(), Arc::clone(container));
        }
        let mut event = LifeEvent {
            kind: LifeEventKind::Started,
            subject: LifeSubject::Container(container.id.clone()),
            at_unix_ns: 7,
            pod: Some(Arc::clone(&pod)),
            world: Arc::new(world),
        };
        let told = message(&event);
        assert_eq!(told.container_id, container.id.as_str());
        assert_eq!(
            told.container_event_type(),
            cri::ContainerEventType::ContainerStartedEvent
        );
        assert_eq!(told.created_at, 7);
        assert_eq!(told.pod_sandbox_status, Some(describe::pod_status(&pod)));
        assert_eq!(
            told.containers_statuses,
            [describe::container_status(&container)]
        );

        event.subject = LifeSubject::Pod(pod.id.clone());
        event.kind = LifeEventKind::Deleted;
        event.pod = None;
        let told = message(&event);
        assert_eq!(told.container_id, pod.id.as_str());
        assert_eq!(told.pod_sandbox_status, None);
        assert!(told.containers_statuses.is_empty());
    }
}
