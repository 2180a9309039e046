//! One-time tokens: what a client that comes to a URL may start.
//!
//! A token is 128 random bits, so that looking one up in a map tells an attacker nothing that helps to guess another. It is void
//! after a minute, and once a session has begun by it. A request that cannot begin one (no upgrade, a version that we do not speak)
//! leaves it as it is, so that a client may try another transport at the same URL.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use crate::{Session, TooManyWaiting};

/// How long a token is good for.
const LIFETIME: Duration = Duration::from_mins(1);
/// Most tokens that wait for their clients.
const MAX_WAITING: usize = 1000;
/// Random bytes of a token.
const TOKEN_LEN: usize = 16;

/// What a URL's path begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Exec,
    Attach,
    PortForward,
}

impl Endpoint {
    /// The first part of the path.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }

    fn of(session: &Session) -> Self {
        match session {
            Session::Exec(_) => Self::Exec,
            Session::Attach { .. } => Self::Attach,
            Session::PortForward { .. } => Self::PortForward,
        }
    }
}

/// Takes a request's path apart: `/exec/TOKEN` and its like. Pure.
pub(crate) fn parse_path(path: &str) -> Option<(Endpoint, &str)> {
    let (first, token) = path.strip_prefix('/')?.split_once('/')?;
    let endpoint = [Endpoint::Exec, Endpoint::Attach, Endpoint::PortForward]
        .into_iter()
        .find(|endpoint| endpoint.as_str() == first)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (!token.is_empty() && token.bytes().all(plain)).then_some((endpoint, token))
}

/// Gives out URLs. Cheap to clone.
#[derive(Clone)]
pub struct Tickets {
    inner: Arc<Inner>,
}

struct Inner {
    /// Scheme and authority, without a slash at the end.
    base: String,
    random: SystemRandom,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    sessions: HashMap<String, Ticket>,
    /// Tokens by age. Those that were used stay here until they would be too old.
    by_age: VecDeque<(Instant, String)>,
}

struct Ticket {
    end: Instant,
    session: Session,
}

impl fmt::Debug for Tickets {
    /// Without tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets")
            .field("base", &self.inner.base)
            .field("waiting", &self.lock().sessions.len())
            .finish()
    }
}

impl Tickets {
    pub(crate) fn new(base: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                base: base.trim_end_matches('/').to_owned(),
                random: SystemRandom::new(),
                waiting: Mutex::default(),
            }),
        }
    }

    /// The URL under which a client may start this session once, within a minute.
    pub fn url(&self, session: Session) -> Result<String, TooManyWaiting> {
        let mut token = [0; TOKEN_LEN];
        if self.inner.random.fill(&mut token).is_err() {
            tracing::error!("the kernel gives no random bytes: no URL can be made for a session");
            return Err(TooManyWaiting);
        }
        let token = BASE64_URL_SAFE_NO_PAD.encode(token);
        let url = format!(
            "{}/{}/{token}",
            self.inner.base,
            Endpoint::of(&session).as_str()
        );
        let mut waiting = self.lock();
        waiting.forget_old();
        if waiting.sessions.len() >= MAX_WAITING {
            return Err(TooManyWaiting);
        }
        let end = Instant::now() + LIFETIME;
        waiting.by_age.push_back((end, token.clone()));
        waiting.sessions.insert(token, Ticket { end, session });
        Ok(url)
    }

    /// What a token stands for, if it is good at this endpoint. It stays good.
    pub(crate) fn look(&self, endpoint: Endpoint, token: &str) -> Option<Session> {
        let mut waiting = self.lock();
        waiting.forget_old();
        let ticket = waiting.sessions.get(token)?;
        (Endpoint::of(&ticket.session) == endpoint && Instant::now() < ticket.end)
            .then(|| ticket.session.clone())
    }

    /// Uses a token up; false when someone else was faster.
    pub(crate) fn redeem(&self, token: &str) -> bool {
        self.lock().sessions.remove(token).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that holds the lock can panic halfway through a change.
        self.inner
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn forget_old(&mut self) {
        let now = Instant::now();
        while let Some((end, token)) = self.by_age.front() {
            // Used ones at the front go at once, so that this list is about as long as the map.
            if *end > now && self.sessions.contains_key(token) {
                break;
            }
            self.sessions.remove(token);
            self.by_age.pop_front();
        }
        if self.by_age.len() > 2 * MAX_WAITING {
            let sessions = &self.sessions;
            self.by_age
                .retain(|(_, token)| sessions.contains_key(token));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn session() -> Session {
        Session::PortForward {
            pod: "pod".to_owned(),
            ports: Vec::new(),
        }
    }

    fn token(url: &str) -> &str {
        url.rsplit_once('/').unwrap().1
    }

    #[tokio::test]
    async fn a_token_is_good_once_at_its_endpoint() {
        let tickets = Tickets::new("http://127.0.0.1:1/");
        let url = tickets.url(session()).unwrap();
        assert!(url.starts_with("http://127.0.0.1:1/portforward/"), "{url}");
        let token = token(&url);
        assert_eq!(token.len(), 22);
        assert!(tickets.look(Endpoint::Exec, token).is_none());
        assert!(tickets.look(Endpoint::PortForward, token).is_some());
        assert!(
            tickets.look(Endpoint::PortForward, token).is_some(),
            "looking does not use it up"
        );
        assert!(tickets.redeem(token));
        assert!(!tickets.redeem(token));
        assert!(tickets.look(Endpoint::PortForward, token).is_none());
        assert!(!format!("{tickets:?}").contains(token));
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_end_with_their_minute_and_make_room() {
        let tickets = Tickets::new("http://x");
        let urls: HashSet<String> = (0..MAX_WAITING)
            .map(|_| tickets.url(session()).unwrap())
            .collect();
        assert_eq!(urls.len(), MAX_WAITING);
        assert!(tickets.url(session()).is_err());
        let used = urls.iter().next().unwrap();
        assert!(tickets.redeem(token(used)));
        let late = tickets.url(session()).unwrap();
        assert!(tickets.url(session()).is_err());
        tokio::time::advance(LIFETIME).await;
        assert!(
            urls.iter()
                .all(|url| tickets.look(Endpoint::PortForward, token(url)).is_none())
        );
        assert!(tickets.look(Endpoint::PortForward, token(&late)).is_none());
        assert!(tickets.url(session()).is_ok());
    }

    #[tokio::test]
    async fn used_tokens_leave_nothing_behind() {
        let tickets = Tickets::new("http://x");
        let kept = tickets.url(session()).unwrap();
        for _ in 0..10 * MAX_WAITING {
            let url = tickets.url(session()).unwrap();
            assert!(tickets.redeem(token(&url)));
        }
        assert!(tickets.lock().by_age.len() <= 2 * MAX_WAITING + 1);
        assert!(tickets.look(Endpoint::PortForward, token(&kept)).is_some());
    }

    #[test]
    fn paths_are_an_endpoint_and_a_token() {
        let table = [
            ("/exec/abc-_9", Some((Endpoint::Exec, "abc-_9"))),
            ("/attach/a", Some((Endpoint::Attach, "a"))),
            ("/portforward/a", Some((Endpoint::PortForward, "a"))),
            ("/exec/", None),
            ("/exec", None),
            ("/exec/a/b", None),
            ("/exec/a%2f", None),
            ("exec/a", None),
            ("/", None),
            ("/run/a", None),
        ];
        for (path, parsed) in table {
            assert_eq!(parse_path(path), parsed, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_parsed_or_refused(path in ".{0,60}") {
            if let Some((endpoint, token)) = parse_path(&path) {
                prop_assert_eq!(format!("/{}/{}", endpoint.as_str(), token), path);
            }
        }
    }
}
