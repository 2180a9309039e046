//! The calls themselves.

use std::sync::Arc;

use tokio::time::{Instant, timeout};
use zbus::{ObjectPath, Variant};

use crate::{
    Property, PropertyValue, Scope, Slice, Stage, Systemd, SystemdError, Unit,
    connection::{About, Failed, Live, MANAGER, MANAGER_PATH},
};

const SIGKILL: i32 = 9;
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// A unit as `ListUnits…` tells of it.
type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    zbus::OwnedObjectPath,
    u32,
    String,
    zbus::OwnedObjectPath,
);

/// What a job should bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Active,
    Stopped,
}

/// How a unit stands.
#[derive(Debug)]
struct Standing {
    active: String,
    has_job: bool,
}

impl Systemd {
    /// systemd's version, as it tells it. The cheapest call: it says whether there is a systemd at all.
    pub async fn version(&self) -> Result<String, SystemdError> {
        let about = About {
            call: "Get",
            unit: "the property Version",
        };
        let answer = self
            .repeated(about, |live| async move {
                let limit = self.inner.deadlines.answer;
                live.property(MANAGER_PATH, MANAGER, "Version", limit).await
            })
            .await?;
        read_text(&answer, about)
    }

    /// Make a scope around running processes. One of ours of the same name that was left over is stopped first.
    ///
    /// # Errors
    /// [`SystemdError::Taken`] if it is there and describes itself otherwise.
    pub async fn start_scope(&self, scope: &Scope) -> Result<(), SystemdError> {
        let mut properties = vec![
            Property::text("Description", scope.description.as_str()),
            Property::text("Slice", scope.slice.as_str()),
            Property {
                name: "PIDs",
                value: PropertyValue::Pids(scope.pids.clone()),
            },
            // Not in the way of a shutdown, which containers' scopes are part of as well.
            Property::flag("DefaultDependencies", false),
            // One that failed is forgotten at once: nothing piles up.
            Property::text("CollectMode", "inactive-or-failed"),
        ];
        properties.extend_from_slice(&scope.properties);
        match self.start(&scope.unit, &properties).await {
            Err(error) if error.is_unit_exists() => {}
            started => return started,
        }
        let about = About {
            call: "StartTransientUnit",
            unit: &scope.unit,
        };
        let found = self.units(&[&scope.unit]).await?;
        if let Some(unit) = found.into_iter().find(|unit| unit.name == scope.unit) {
            if unit.description != scope.description {
                return Err(SystemdError::Taken {
                    unit: unit.name,
                    description: unit.description,
                });
            }
            tracing::warn!(unit = scope.unit, "a scope of a former time is stopped");
            self.stop(&scope.unit).await?;
        }
        self.start(about.unit, &properties).await
    }

    /// Make a slice. False if it is there already: it is somebody else's then, and stays as it is.
    pub async fn start_slice(&self, slice: &Slice) -> Result<bool, SystemdError> {
        let mut properties = vec![
            Property::text("Description", slice.description.as_str()),
            Property::flag("DefaultDependencies", false),
            Property::flag("CPUAccounting", true),
            Property::flag("MemoryAccounting", true),
            Property::flag("TasksAccounting", true),
            Property::flag("IOAccounting", true),
        ];
        properties.extend_from_slice(&slice.properties);
        match self.start(&slice.unit, &properties).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_unit_exists() => {
                // An answer may have been lost, and it is ours after all.
                let found = self.units(&[&slice.unit]).await?;
                Ok(found
                    .iter()
                    .any(|unit| unit.name == slice.unit && unit.description == slice.description))
            }
            Err(error) => Err(error),
        }
    }

    /// Stop a unit with everything in it, and forget that it may have failed. One that is not there is stopped.
    pub async fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        let about = About {
            call: "StopUnit",
            unit,
        };
        let stopped = self.by_job(about, Goal::Stopped, &(unit, "replace")).await;
        match stopped {
            Err(error) if error.is_no_such_unit() => return Ok(()),
            stopped => stopped?,
        }
        self.reset_failed(unit).await
    }

    /// Send SIGKILL to every process of a unit. One that is not there has none.
    pub async fn kill(&self, unit: &str) -> Result<(), SystemdError> {
        let about = About {
            call: "KillUnit",
            unit,
        };
        match self.manager(about, &(unit, "all", SIGKILL)).await {
            Err(error) if error.is_no_such_unit() || error.is_no_process() => Ok(()),
            done => done.map(drop),
        }
    }

    /// Forget that a unit failed. One that is not there did not.
    pub async fn reset_failed(&self, unit: &str) -> Result<(), SystemdError> {
        let about = About {
            call: "ResetFailedUnit",
            unit,
        };
        match self.manager(about, &unit).await {
            Err(error) if error.is_no_such_unit() => Ok(()),
            done => done.map(drop),
        }
    }

    /// Change properties of a unit until the next boot.
    pub async fn set_properties(
        &self,
        unit: &str,
        properties: &[Property],
    ) -> Result<(), SystemdError> {
        if properties.is_empty() {
            return Ok(());
        }
        let about = About {
            call: "SetUnitProperties",
            unit,
        };
        let pairs: Vec<_> = properties.iter().map(Property::pair).collect();
        self.manager(about, &(unit, true, pairs)).await.map(drop)
    }

    /// The loaded units whose names fit one of the patterns (`pintle-*.scope`).
    pub async fn units(&self, patterns: &[&str]) -> Result<Vec<Unit>, SystemdError> {
        let about = About {
            call: "ListUnitsByPatterns",
            unit: patterns.first().copied().unwrap_or_default(),
        };
        let states: [&str; 0] = [];
        let answer = self.manager(about, &(&states[..], patterns)).await?;
        let listed: Vec<Listed> = answer
            .body()
            .deserialize()
            .map_err(|error| self.failed(Failed::Form(error), about))?;
        Ok(listed
            .into_iter()
            .map(|unit| Unit {
                name: unit.0,
                description: unit.1,
                active: unit.3,
            })
            .collect())
    }

    async fn start(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        let about = About {
            call: "StartTransientUnit",
            unit,
        };
        let pairs: Vec<_> = properties.iter().map(Property::pair).collect();
        let beside: [(&str, Vec<(&str, Variant<'_>)>); 0] = [];
        let body = (unit, "fail", pairs, &beside[..]);
        self.by_job(about, Goal::Active, &body).await
    }

    fn failed(&self, failed: Failed, about: About<'_>) -> SystemdError {
        failed.about(about, self.inner.address())
    }

    /// Do something over a connection, and once more if that one broke meanwhile.
    async fn repeated<T, F>(
        &self,
        about: About<'_>,
        work: impl Fn(Arc<Live>) -> F,
    ) -> Result<T, SystemdError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let mut has_broken = false;
        loop {
            let live = match self.inner.live().await {
                Ok(live) => live,
                Err(failed) => return Err(self.failed(failed, about)),
            };
            match work(Arc::clone(&live)).await {
                Ok(done) => return Ok(done),
                Err(failed @ (Failed::Broken(_) | Failed::Absent(_))) => {
                    self.inner.drop_broken(&live);
                    if has_broken {
                        return Err(self.failed(failed, about));
                    }
                    tracing::info!(
                        call = about.call,
                        unit = about.unit,
                        ?failed,
                        "the connection to systemd broke; it is made anew"
                    );
                    has_broken = true;
                }
                Err(failed) => {
                    if matches!(failed, Failed::Late(..)) {
                        // An answer that comes after all must not meet the next question.
                        self.inner.drop_broken(&live);
                    }
                    return Err(self.failed(failed, about));
                }
            }
        }
    }

    /// One method of the manager.
    async fn manager<B>(&self, about: About<'_>, body: &B) -> Result<zbus::Message, SystemdError>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        let limit = self.inner.deadlines.answer;
        self.repeated(about, |live| async move {
            live.ask(about.call, body, limit).await
        })
        .await
    }

    /// One method of the manager that answers with a job, and the job's end.
    async fn by_job<B>(&self, about: About<'_>, goal: Goal, body: &B) -> Result<(), SystemdError>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        let limit = self.inner.deadlines.answer;
        let mut has_broken = false;
        loop {
            let live = match self.inner.live().await {
                Ok(live) => live,
                Err(failed) => return Err(self.failed(failed, about)),
            };
            let failed = match live.ask(about.call, body, limit).await {
                Ok(answer) => {
                    let body = answer.body();
                    let job = body
                        .deserialize::<ObjectPath<'_>>()
                        .map_err(|error| self.failed(Failed::Form(error), about))?;
                    return self.end_of(about, goal, live, job.as_str()).await;
                }
                // The first try came through, and the connection broke before its answer: what is there is what it made.
                Err(Failed::Refused { name, .. })
                    if has_broken
                        && goal == Goal::Active
                        && name == "org.freedesktop.systemd1.UnitExists"
                        && self
                            .stands(about)
                            .await?
                            .is_some_and(|found| found.active == "active" || found.has_job) =>
                {
                    return self.end_of(about, goal, live, "").await;
                }
                Err(failed) => failed,
            };
            let may_repeat = matches!(failed, Failed::Broken(_) | Failed::Absent(_));
            if may_repeat || matches!(failed, Failed::Late(..)) {
                self.inner.drop_broken(&live);
            }
            if !may_repeat || has_broken {
                return Err(self.failed(failed, about));
            }
            tracing::info!(
                call = about.call,
                unit = about.unit,
                ?failed,
                "the connection to systemd broke; it is made anew"
            );
            has_broken = true;
        }
    }

    /// Wait for a job's end: for the signal, and for what the unit says itself from time to time.
    async fn end_of(
        &self,
        about: About<'_>,
        goal: Goal,
        live: Arc<Live>,
        job: &str,
    ) -> Result<(), SystemdError> {
        let limit = self.inner.deadlines.job;
        let until = Instant::now() + limit;
        let look = self.inner.deadlines.look;
        let mut signal = Some(live.jobs.wait(job));
        // From here on the connection may go: the unit is asked over another one then.
        drop(live);
        loop {
            let waited = match &mut signal {
                Some(signal) if !job.is_empty() => timeout(look, signal).await.ok(),
                _ => None,
            };
            match waited {
                Some(Ok(result)) if result == "done" => return Ok(()),
                Some(Ok(result)) => {
                    return Err(SystemdError::Job {
                        call: about.call,
                        unit: about.unit.to_owned(),
                        result,
                    });
                }
                Some(Err(_)) => signal = None,
                None => {}
            }
            match (self.stands(about).await?, goal) {
                (None, Goal::Stopped) => return Ok(()),
                (Some(found), _) if found.has_job => {}
                (Some(found), Goal::Active) if found.active == "active" => return Ok(()),
                (Some(found), Goal::Stopped)
                    if matches!(found.active.as_str(), "inactive" | "failed") =>
                {
                    return Ok(());
                }
                (found, _) => {
                    return Err(SystemdError::Job {
                        call: about.call,
                        unit: about.unit.to_owned(),
                        result: found.map_or_else(|| "gone".to_owned(), |found| found.active),
                    });
                }
            }
            if Instant::now() >= until {
                return Err(SystemdError::Deadline {
                    call: about.call,
                    unit: about.unit.to_owned(),
                    stage: Stage::Job,
                    limit,
                });
            }
            if signal.is_none() || job.is_empty() {
                tokio::time::sleep(look.min(std::time::Duration::from_millis(200))).await;
            }
        }
    }

    /// How a unit stands; `None` if systemd does not know it.
    async fn stands(&self, about: About<'_>) -> Result<Option<Standing>, SystemdError> {
        let limit = self.inner.deadlines.answer;
        let found = self
            .repeated(about, |live| async move {
                let answer = live.ask("GetUnit", &about.unit, limit).await?;
                let body = answer.body();
                let path = body.deserialize::<ObjectPath<'_>>()?;
                let active = live
                    .property(path.as_str(), UNIT, "ActiveState", limit)
                    .await?;
                let job = live.property(path.as_str(), UNIT, "Job", limit).await?;
                Ok((active, job))
            })
            .await;
        let (active, job) = match found {
            Err(error) if error.is_no_such_unit() => return Ok(None),
            // It went between two questions.
            Err(SystemdError::Refused { name, .. })
                if name == "org.freedesktop.DBus.Error.UnknownObject" =>
            {
                return Ok(None);
            }
            found => found?,
        };
        let body = job.body();
        let job = body
            .deserialize::<Variant<'_>>()
            .and_then(<(u32, ObjectPath<'_>)>::try_from)
            .map_err(|error| self.failed(Failed::Form(error), about))?;
        Ok(Some(Standing {
            active: read_text(&active, about)?,
            has_job: job.0 != 0,
        }))
    }
}

fn read_text(answer: &zbus::Message, about: About<'_>) -> Result<String, SystemdError> {
    let body = answer.body();
    body.deserialize::<Variant<'_>>()
        .and_then(String::try_from)
        .map_err(|source| SystemdError::Answer {
            call: about.call,
            unit: about.unit.to_owned(),
            source: Box::new(source),
        })
}
