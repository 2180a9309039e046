//! Pulls as the operator sees them: one that is looked on at until it ends, and all that are under way.

use std::time::{Duration, SystemTime};

use api::admin;
use api::admin::pull_image_response::Event;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use image::{LayerProgress, LayerState, PullProgress, PullRequest};
use tonic::{Request, Response, Status};

use crate::convert::required_id;
use crate::describe;
use crate::errors::image_status;
use crate::face::Face;
use crate::images::credentials;
use crate::request::{Deadline, Subjects};

/// How often a pull that moves is told of.
const LOOK: Duration = Duration::from_millis(200);

/// Progress of one pull, then its end.
pub(crate) type Looking = BoxStream<'static, Result<admin::PullImageResponse, Status>>;

impl Face {
    /// Pulls an image as long as the client looks on.
    pub(crate) fn pull_with_progress(
        &self,
        request: Request<admin::PullImageRequest>,
    ) -> Result<Response<Looking>, Status> {
        let subjects = Subjects::of(&request);
        let deadline = Deadline::of(&request).at();
        let request = request.into_inner();
        let name = required_id("reference", &request.reference)?.to_owned();
        subjects.image(&name);
        let credentials = credentials(&request.auth.unwrap_or_default())?;
        let images = self.images.clone();
        let normal = image::normal_reference(&name).map_err(|error| image_status(&error))?;
        let pull = {
            let images = images.clone();
            Box::pin(async move {
                images
                    .pull(PullRequest {
                        reference: name,
                        credentials,
                        namespace: None,
                        deadline,
                    })
                    .await
            })
        };
        // The pull is part of the stream: dropped by a client that goes away, it is given up.
        let state = Some((pull, None));
        let events = stream::unfold(state, move |state| {
            let (images, normal) = (images.clone(), normal.clone());
            async move {
                let (mut pull, mut last) = state?;
                loop {
                    let ended = tokio::time::timeout(LOOK, &mut pull).await;
                    if let Ok(ended) = ended {
                        let end = ended
                            .map(|image| Event::Image(describe::image_message(&image)))
                            .map_err(|error| image_status(&error));
                        return Some((end, None));
                    }
                    let now = images
                        .pulls()
                        .into_iter()
                        .find(|pull| pull.reference == normal)
                        .map(pull_message);
                    if let Some(now) = now
                        && last.as_ref() != Some(&now)
                    {
                        last = Some(now.clone());
                        return Some((Ok(Event::Progress(now)), Some((pull, last))));
                    }
                }
            }
        });
        let messages =
            events.map(|event| event.map(|event| admin::PullImageResponse { event: Some(event) }));
        Ok(Response::new(messages.boxed()))
    }

    pub(crate) fn list_pulls_reply(&self) -> admin::ListPullsResponse {
        let totals = self.images.pull_totals();
        admin::ListPullsResponse {
            pulls: self.images.pulls().into_iter().map(pull_message).collect(),
            totals: Some(admin::PullTotals {
                succeeded: totals.succeeded,
                failed: totals
                    .failed
                    .into_iter()
                    .map(|(kind, count)| (kind.to_owned(), count))
                    .collect(),
                cancelled: totals.cancelled,
                seconds: totals.time.as_secs_f64(),
                bytes_fetched: totals.bytes_fetched,
                bytes_resumed: totals.bytes_resumed,
                breaks: totals.breaks,
                stalls: totals.stalls,
                host_changes: totals.host_changes,
            }),
        }
    }
}

fn pull_message(pull: PullProgress) -> admin::PullProgress {
    let since = pull.since.duration_since(SystemTime::UNIX_EPOCH);
    admin::PullProgress {
        reference: pull.reference,
        since_unix_ns: since.map_or(0, |since| {
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        }),
        layers: pull.layers.into_iter().map(layer_message).collect(),
    }
}

fn layer_message(layer: LayerProgress) -> admin::LayerProgress {
    let state = match layer.state {
        LayerState::Waiting => admin::LayerState::Waiting,
        LayerState::Downloading => admin::LayerState::Downloading,
        LayerState::Unpacking => admin::LayerState::Unpacking,
        LayerState::Done => admin::LayerState::Done,
    };
    admin::LayerProgress {
        digest: layer.digest,
        size: layer.size,
        fetched: layer.fetched,
        resumed: layer.resumed,
        state: state.into(),
        bytes_per_second: layer.bytes_per_second,
        host: layer.host.unwrap_or_default(),
    }
}
