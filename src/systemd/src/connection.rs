//! The one connection to the bus: made when it is needed, made anew when it broke, dropped when it is idle.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep, timeout};
use zbus::{Connection, MatchRule, Message, MessageStream, message};

use crate::{Deadlines, Stage, SystemdError, jobs::Jobs};

pub(crate) const SERVICE: &str = "org.freedesktop.systemd1";
pub(crate) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The pause between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// The state behind a client.
#[derive(Debug)]
pub(crate) struct Inner {
    address: String,
    pub(crate) deadlines: Deadlines,
    slot: Mutex<Option<Arc<Live>>>,
    /// One at a time connects; the others use what it made.
    connecting: tokio::sync::Mutex<()>,
}

/// A connection that serves.
#[derive(Debug)]
pub(crate) struct Live {
    connection: Connection,
    pub(crate) jobs: Arc<Jobs>,
    used: Mutex<Instant>,
    /// Reads the signals of ended jobs.
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// How a single message fared.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The connection, or systemd's, is gone: whether the message was acted on is not known.
    Broken(zbus::Error),
    /// systemd is not on the bus at the moment: the message was not acted on.
    Absent(zbus::Error),
    /// There is no bus.
    NoBus(zbus::Error),
    /// Nothing came in time.
    Late(Stage, Duration),
    /// An error was answered.
    Refused { name: String, message: String },
    /// What came cannot be read, or what was to be sent not be written.
    Form(zbus::Error),
}

/// A message and what it is about, for errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) call: &'static str,
    pub(crate) unit: &'a str,
}

impl Failed {
    pub(crate) fn about(self, about: About<'_>, address: &str) -> SystemdError {
        let (call, unit) = (about.call, about.unit.to_owned());
        match self {
            Self::Broken(source) => SystemdError::Broken {
                call,
                unit,
                stage: Stage::Answer,
                source: Box::new(source),
            },
            Self::Absent(source) | Self::NoBus(source) => SystemdError::Unreachable {
                call,
                unit,
                address: address.to_owned(),
                source: Box::new(source),
            },
            Self::Late(stage, limit) => SystemdError::Deadline {
                call,
                unit,
                stage,
                limit,
            },
            Self::Refused { name, message } => SystemdError::Refused {
                call,
                unit,
                name,
                message,
            },
            Self::Form(source) => SystemdError::Answer {
                call,
                unit,
                source: Box::new(source),
            },
        }
    }
}

impl From<zbus::Error> for Failed {
    fn from(error: zbus::Error) -> Self {
        // Errors that the bus itself answers have types of their own; these are the ones of a recipient that is not there.
        let named = match &error {
            zbus::Error::MethodError(name, message, _) => {
                Some((name.to_string(), message.clone().unwrap_or_default()))
            }
            zbus::Error::FDO(error) => {
                let name = zbus::DBusError::name(error.as_ref()).to_string();
                let message = zbus::DBusError::description(error.as_ref()).unwrap_or_default();
                Some((name, message.to_owned()))
            }
            zbus::Error::InputOutput(_) => return Self::Broken(error),
            zbus::Error::Connection(..) | zbus::Error::Handshake(_) | zbus::Error::Address(_) => {
                return Self::NoBus(error);
            }
            _ => None,
        };
        let Some((name, message)) = named else {
            return Self::Form(error);
        };
        match name.strip_prefix("org.freedesktop.DBus.Error.") {
            Some("NoReply" | "Disconnected" | "Timeout" | "TimedOut") => Self::Broken(error),
            Some("ServiceUnknown" | "NameHasNoOwner" | "NoServer") => Self::Absent(error),
            Some(short) if short.starts_with("Spawn.") => Self::Absent(error),
            _ => Self::Refused { name, message },
        }
    }
}

impl Inner {
    pub(crate) fn new(address: String, deadlines: Deadlines) -> Self {
        Self {
            address,
            deadlines,
            slot: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Live>>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.slot().is_some()
    }

    fn known(&self) -> Option<Arc<Live>> {
        let slot = self.slot();
        let live = slot.as_ref().filter(|live| !live.connection.is_closed())?;
        live.touch();
        Some(Arc::clone(live))
    }

    /// A connection, made if need be. While the bus or systemd is not there it is tried again, until the deadline.
    pub(crate) async fn live(self: &Arc<Self>) -> Result<Arc<Live>, Failed> {
        if let Some(live) = self.known() {
            return Ok(live);
        }
        let limit = self.deadlines.connect;
        let until = Instant::now() + limit;
        let late = |_| Failed::Late(Stage::Connecting, limit);
        let _turn = tokio::time::timeout_at(until, self.connecting.lock())
            .await
            .map_err(late)?;
        if let Some(live) = self.known() {
            return Ok(live);
        }
        loop {
            let tried = tokio::time::timeout_at(until, self.connect()).await;
            match tried.map_err(late)? {
                Ok(live) => {
                    *self.slot() = Some(Arc::clone(&live));
                    close_when_idle(Arc::downgrade(self), Arc::downgrade(&live));
                    return Ok(live);
                }
                // A bus that starts listens soon; one without a socket is not going to.
                Err(error @ (Failed::Broken(_) | Failed::Absent(_))) => {
                    if Instant::now() + PAUSE >= until {
                        return Err(error);
                    }
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect(&self) -> Result<Arc<Live>, Failed> {
        let built = zbus::connection::Builder::address(self.address.as_str()).build();
        let connection = built.await.map_err(|error| match Failed::from(error) {
            Failed::NoBus(error) if is_refused(&error) => Failed::Broken(error),
            failed => failed,
        })?;
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .interface(MANAGER)
            .member("JobRemoved")
            .path(MANAGER_PATH)
            .build()
            .map_err(Failed::Form)?;
        // Before anything is asked for, or an end could pass unseen.
        let stream = MessageStream::for_match_rule(rule, &connection, None).await?;
        let jobs = Arc::new(Jobs::default());
        let reader = tokio::spawn(read_ends(stream, Arc::clone(&jobs)));
        let live = Arc::new(Live {
            connection,
            jobs,
            used: Mutex::new(Instant::now()),
            reader,
        });
        // Without a subscriber systemd tells nobody of jobs.
        live.send("Subscribe", &()).await?;
        Ok(live)
    }

    /// Not to be used any more.
    pub(crate) fn drop_broken(&self, broken: &Arc<Live>) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|live| Arc::ptr_eq(live, broken)) {
            *slot = None;
        }
    }
}

/// A socket that is there and refuses is one whose bus is just starting anew.
fn is_refused(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::Connection(error, _) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

impl Live {
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle(&self) -> Duration {
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }

    async fn send<B>(&self, method: &str, body: &B) -> Result<Message, Failed>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        let call =
            self.connection
                .call_method(Some(SERVICE), MANAGER_PATH, Some(MANAGER), method, body);
        Ok(call.await?)
    }

    /// One method of the manager, within `limit`.
    pub(crate) async fn ask<B>(
        &self,
        method: &str,
        body: &B,
        limit: Duration,
    ) -> Result<Message, Failed>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        let answer = timeout(limit, self.send(method, body)).await;
        self.touch();
        answer.unwrap_or(Err(Failed::Late(Stage::Answer, limit)))
    }

    /// One property of an object, within `limit`.
    pub(crate) async fn property(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        limit: Duration,
    ) -> Result<Message, Failed> {
        let body = (interface, name);
        let call = self
            .connection
            .call_method(Some(SERVICE), path, Some(PROPERTIES), "Get", &body);
        let answer = timeout(limit, call).await;
        self.touch();
        Ok(answer.map_err(|_| Failed::Late(Stage::Answer, limit))??)
    }
}

/// Hands on which jobs have ended, as long as the connection lasts.
async fn read_ends(mut stream: MessageStream, jobs: Arc<Jobs>) {
    while let Some(Ok(message)) = stream.next().await {
        let body = message.body();
        let read = body.deserialize::<(u32, zbus::ObjectPath<'_>, &str, &str)>();
        match read {
            Ok((_number, job, _unit, result)) => jobs.ended(job.as_str(), result),
            Err(error) => tracing::debug!(%error, "a signal of systemd cannot be read"),
        }
    }
}

/// Closes the connection when nobody has used it for a while.
fn close_when_idle(inner: Weak<Inner>, live: Weak<Live>) {
    tokio::spawn(async move {
        loop {
            let (Some(strong), Some(known)) = (inner.upgrade(), live.upgrade()) else {
                return;
            };
            let idle = strong.deadlines.idle;
            let left = idle.saturating_sub(known.idle());
            if left.is_zero() {
                // Ours and the slot's: nobody is in a call.
                let mut slot = strong.slot();
                let is_kept = slot.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &known));
                if !is_kept {
                    return;
                }
                if Arc::strong_count(&known) == 2 {
                    *slot = None;
                    return;
                }
            }
            drop((strong, known));
            sleep(left.max(PAUSE)).await;
        }
    });
}
