//! One planned host as a pull uses it: its client, its name for the repository, and the state of being let in.

use std::sync::Arc;

use http::HeaderMap;
use tokio::sync::OnceCell;

use crate::config::ImagesConfig;
use crate::credentials::Login;
use crate::error::ImageError;
use crate::sources::PlannedHost;

use super::authorization::Gate;
use super::hosts::{Host, Hosts};

/// One host that may have the repository, and what this pull knows about being let in.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) host: Arc<Host>,
    /// Taken instead of `host` when that does not speak TLS, which is found out once.
    plain: Option<Arc<Host>>,
    speaks_tls: OnceCell<bool>,
    pub(super) gate: Gate,
    pub(super) headers: HeaderMap,
    /// Path of the repository, from the slash behind the host on.
    repository: String,
    /// `?ns=…`, or nothing.
    query: String,
    /// Of the API, where the errors of this host are remembered.
    pub(super) root: String,
    pub(super) resolve: bool,
    pub(super) pull: bool,
}

impl Endpoint {
    pub(super) fn new(
        planned: &PlannedHost,
        login: Login,
        hosts: &Hosts,
    ) -> Result<Self, ImageError> {
        let plain = planned.plain.as_ref().map(|plain| hosts.get(plain));
        Ok(Self {
            host: hosts.get(&planned.transport)?,
            plain: plain.transpose()?,
            speaks_tls: OnceCell::new(),
            gate: Gate::new(&planned.repository, login),
            headers: planned.headers.iter().cloned().fold(
                HeaderMap::new(),
                |mut map, (name, value)| {
                    map.append(name, value);
                    map
                },
            ),
            repository: format!("{}/{}", planned.path, planned.repository),
            query: planned
                .stands_for
                .as_ref()
                .map_or_else(String::new, |registry| format!("?ns={registry}")),
            root: planned.root(),
            resolve: planned.resolve,
            pull: planned.pull,
        })
    }

    pub(super) fn path(&self, kind: &str, name: &str) -> String {
        format!("{}/{kind}/{name}{}", self.repository, self.query)
    }

    /// The host as it is talked to. Asks it once whether it speaks TLS, if the operator allows that it does not.
    pub(super) async fn host(&self, config: &ImagesConfig) -> &Arc<Host> {
        let Some(plain) = &self.plain else {
            return &self.host;
        };
        let speaks_tls = self.speaks_tls.get_or_init(async || {
            let asked = self.host.client().head(self.host.url("/v2/")).send();
            let limit = config.timeouts.header;
            if limit.is_zero() {
                return asked.await.is_ok();
            }
            // No answer at all is not an answer in plain HTTP either.
            tokio::time::timeout(limit, asked)
                .await
                .is_ok_and(|answer| answer.is_ok())
        });
        if *speaks_tls.await { &self.host } else { plain }
    }
}
