//! The client against a real bus with a made-up systemd on it, which hangs, dies in the middle of calls, and loses signals.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt as _;
use pintle_systemd::{Deadlines, Property, Scope, Slice, Stage, Systemd, SystemdError};
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant, message::Type};

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/u";
const JOB_PATH: &str = "/org/freedesktop/systemd1/job/7";

/// A bus of the test's own.
struct Bus {
    directory: tempfile::TempDir,
    daemon: Child,
}

impl Bus {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let daemon = Self::daemon(directory.path());
        Self { directory, daemon }
    }

    fn daemon(directory: &Path) -> Child {
        let config = directory.join("bus.conf");
        std::fs::write(
            &config,
            format!(
                r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
                "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
                <busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth>
                <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"#,
                directory.join("bus").display()
            ),
        )
        .unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("Debian's package dbus-daemon is installed");
        // It prints its address when it listens.
        let mut line = String::new();
        let output = daemon.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        daemon
    }

    /// Ends the daemon as a crash would, and starts another one at the same place.
    fn restart(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        let _ = std::fs::remove_file(self.directory.path().join("bus"));
        self.daemon = Self::daemon(self.directory.path());
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.directory.path().join("bus").display())
    }

    fn client(&self) -> Systemd {
        Systemd::new(&self.address(), deadlines())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn deadlines() -> Deadlines {
    Deadlines {
        connect: Duration::from_secs(20),
        answer: Duration::from_secs(20),
        job: Duration::from_secs(20),
        idle: Duration::from_mins(5),
        look: Duration::from_millis(100),
    }
}

/// What the made-up systemd does with a call.
#[derive(Clone, Debug)]
enum Answer {
    /// Say so, as the method's answer.
    Job,
    /// Say so, then that the job has ended.
    JobThenEnd(&'static str),
    /// The end is told before the answer.
    EndThenJob,
    Nothing,
    Error(&'static str),
    /// Leave the bus without an answer, as systemd does when it executes itself anew.
    Leave,
    Text(&'static str),
    Unit,
    JobOfUnit(u32),
    Units(&'static [(&'static str, &'static str)]),
    Hang,
}

/// What to answer, by method (`Get` has its property's name with it); the last answer is given again and again.
type Script = Vec<(&'static str, Vec<Answer>)>;

#[derive(Debug)]
struct FakeSystemd {
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeSystemd {
    /// Serves by the script; after `Leave` it comes back at once and goes on in it.
    async fn start(bus: &Bus, script: Script) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (address, log) = (bus.address(), Arc::clone(&asked));
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut ready = Some(ready);
            let mut script = script;
            loop {
                let Ok(connection) = connect(&address).await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let mut stream = MessageStream::from(&connection);
                connection
                    .request_name("org.freedesktop.systemd1")
                    .await
                    .unwrap();
                if let Some(ready) = ready.take() {
                    ready.send(()).unwrap();
                }
                while let Some(Ok(message)) = stream.next().await {
                    if message.message_type() == Type::MethodCall
                        && !serve(&connection, &message, &mut script, &log).await
                    {
                        break;
                    }
                }
                let _ = connection.close().await;
            }
        });
        is_ready.await.unwrap();
        Self { asked, task }
    }

    fn asked(&self, method: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| *asked == method).count()
    }
}

impl Drop for FakeSystemd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(address: &str) -> zbus::Result<Connection> {
    zbus::connection::Builder::address(address).build().await
}

/// False: leave.
async fn serve(
    connection: &Connection,
    message: &Message,
    script: &mut Script,
    log: &Mutex<Vec<String>>,
) -> bool {
    let header = message.header();
    let mut method = header.member().unwrap().to_string();
    if method == "Get" {
        let body = message.body();
        let (_, property): (&str, &str) = body.deserialize().unwrap();
        method = format!("Get {property}");
    }
    if method == "Subscribe" {
        connection.reply(&header, &()).await.unwrap();
        return true;
    }
    log.lock().unwrap().push(method.clone());
    let entry = script.iter_mut().find(|(name, _)| *name == method);
    let Some((_, answers)) = entry else {
        panic!("{method} was not expected");
    };
    let answer = if answers.len() > 1 {
        answers.remove(0)
    } else {
        answers[0].clone()
    };
    let job = ObjectPath::try_from(JOB_PATH).unwrap();
    let end = async |result: &str| {
        let body = (7_u32, ObjectPath::try_from(JOB_PATH).unwrap(), "u", result);
        connection
            .emit_signal(
                None::<&str>,
                "/org/freedesktop/systemd1",
                MANAGER,
                "JobRemoved",
                &body,
            )
            .await
            .unwrap();
    };
    match answer {
        Answer::Job => connection.reply(&header, &job).await.unwrap(),
        Answer::JobThenEnd(result) => {
            connection.reply(&header, &job).await.unwrap();
            end(result).await;
        }
        Answer::EndThenJob => {
            end("done").await;
            connection.reply(&header, &job).await.unwrap();
        }
        Answer::Nothing => connection.reply(&header, &()).await.unwrap(),
        Answer::Error(name) => connection.reply_error(&header, name, &"no").await.unwrap(),
        Answer::Leave => return false,
        Answer::Text(text) => connection
            .reply(&header, &Variant::from(text))
            .await
            .unwrap(),
        Answer::Unit => {
            let path = ObjectPath::try_from(UNIT_PATH).unwrap();
            connection.reply(&header, &path).await.unwrap();
        }
        Answer::JobOfUnit(number) => {
            let job = Variant::from((number, job));
            connection.reply(&header, &job).await.unwrap();
        }
        Answer::Units(units) => {
            let path = ObjectPath::try_from(UNIT_PATH).unwrap();
            let listed: Vec<_> = units
                .iter()
                .map(|(name, description)| {
                    let words = ("loaded", "active", "running", "");
                    (
                        *name,
                        *description,
                        words.0,
                        words.1,
                        words.2,
                        words.3,
                        &path,
                        0_u32,
                        "",
                        &path,
                    )
                })
                .collect();
            connection.reply(&header, &listed).await.unwrap();
        }
        Answer::Hang => {}
    }
    true
}

fn scope() -> Scope {
    Scope {
        unit: "u.scope".to_owned(),
        slice: "system.slice".to_owned(),
        description: "ours".to_owned(),
        pids: vec![1],
        properties: vec![Property::number("TasksMax", 5)],
    }
}

fn standing(active: &'static str, job: u32) -> Script {
    vec![
        ("GetUnit", vec![Answer::Unit]),
        ("Get ActiveState", vec![Answer::Text(active)]),
        ("Get Job", vec![Answer::JobOfUnit(job)]),
    ]
}

#[tokio::test]
async fn a_job_is_waited_for_whenever_its_end_is_told() {
    let bus = Bus::start();
    let script = vec![(
        "StartTransientUnit",
        vec![Answer::JobThenEnd("done"), Answer::EndThenJob],
    )];
    let fake = FakeSystemd::start(&bus, script).await;
    let client = bus.client();
    assert!(!client.is_connected());
    client.start_scope(&scope()).await.unwrap();
    client.start_scope(&scope()).await.unwrap();
    assert!(client.is_connected());
    assert_eq!(fake.asked("StartTransientUnit"), 2);
}

#[tokio::test]
async fn a_lost_signal_is_made_up_for_by_looking() {
    let bus = Bus::start();
    let mut script = standing("active", 0);
    script.push(("StartTransientUnit", vec![Answer::Job]));
    // First it is still under way.
    script[2].1.insert(0, Answer::JobOfUnit(7));
    let fake = FakeSystemd::start(&bus, script).await;
    bus.client().start_scope(&scope()).await.unwrap();
    assert_eq!(fake.asked("Get Job"), 2);
}

#[tokio::test]
async fn a_job_that_fails_is_an_error_that_says_how() {
    let bus = Bus::start();
    let script = vec![("StartTransientUnit", vec![Answer::JobThenEnd("dependency")])];
    let _fake = FakeSystemd::start(&bus, script).await;
    let error = bus.client().start_scope(&scope()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "StartTransientUnit of u.scope: its job ended as dependency"
    );
}

#[tokio::test]
async fn what_broke_in_the_middle_is_repeated_once() {
    let bus = Bus::start();
    let script = vec![(
        "StartTransientUnit",
        vec![Answer::Leave, Answer::JobThenEnd("done")],
    )];
    let fake = FakeSystemd::start(&bus, script).await;
    bus.client().start_scope(&scope()).await.unwrap();
    assert_eq!(fake.asked("StartTransientUnit"), 2);

    drop(fake);
    let script = vec![("StartTransientUnit", vec![Answer::Leave])];
    let fake = FakeSystemd::start(&bus, script).await;
    let error = bus.client().start_scope(&scope()).await.unwrap_err();
    assert!(matches!(error, SystemdError::Broken { .. }), "{error}");
    assert_eq!(fake.asked("StartTransientUnit"), 2);
}

#[tokio::test]
async fn what_the_first_try_made_is_not_taken_for_somebody_elses() {
    let bus = Bus::start();
    let mut script = standing("active", 0);
    script.push((
        "StartTransientUnit",
        vec![
            Answer::Leave,
            Answer::Error("org.freedesktop.systemd1.UnitExists"),
        ],
    ));
    let fake = FakeSystemd::start(&bus, script).await;
    bus.client().start_scope(&scope()).await.unwrap();
    assert_eq!(fake.asked("StartTransientUnit"), 2);
}

#[tokio::test]
async fn a_bus_that_starts_anew_under_a_job_is_gone_back_to() {
    let mut bus = Bus::start();
    let mut script = standing("active", 7);
    script[2].1.push(Answer::JobOfUnit(0));
    script.push(("StartTransientUnit", vec![Answer::Job]));
    let fake = FakeSystemd::start(&bus, script).await;
    let client = bus.client();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.start_scope(&scope()).await }
    });
    // Its answer has come when the job is looked after.
    while fake.asked("Get Job") == 0 {
        tokio::task::yield_now().await;
    }
    bus.restart();
    call.await.unwrap().unwrap();
    assert_eq!(fake.asked("StartTransientUnit"), 1);
}

#[tokio::test]
async fn a_hang_ends_at_its_deadline_and_names_what_it_was_at() {
    let bus = Bus::start();
    let mut script = standing("active", 7);
    script.push(("ResetFailedUnit", vec![Answer::Hang, Answer::Nothing]));
    script.push(("StopUnit", vec![Answer::Job]));
    let _fake = FakeSystemd::start(&bus, script).await;
    let client = Systemd::new(
        &bus.address(),
        Deadlines {
            answer: Duration::from_secs(1),
            job: Duration::from_secs(1),
            ..deadlines()
        },
    );
    let error = client.reset_failed("u.scope").await.unwrap_err();
    assert!(
        matches!(
            error,
            SystemdError::Deadline {
                stage: Stage::Answer,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "ResetFailedUnit of u.scope: no end within 1s, waiting for systemd's answer"
    );
    assert!(!client.is_connected(), "a late answer would be in the way");
    client.reset_failed("u.scope").await.unwrap();
    let error = client.stop("u.scope").await.unwrap_err();
    assert!(
        matches!(
            error,
            SystemdError::Deadline {
                stage: Stage::Job,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_scope_that_is_left_over_makes_room_if_it_is_ours() {
    let bus = Bus::start();
    let exists = Answer::Error("org.freedesktop.systemd1.UnitExists");
    let script = vec![
        (
            "StartTransientUnit",
            vec![exists.clone(), Answer::JobThenEnd("done")],
        ),
        (
            "ListUnitsByPatterns",
            vec![Answer::Units(&[("u.scope", "ours")])],
        ),
        ("StopUnit", vec![Answer::JobThenEnd("done")]),
        ("ResetFailedUnit", vec![Answer::Nothing]),
    ];
    let fake = FakeSystemd::start(&bus, script).await;
    bus.client().start_scope(&scope()).await.unwrap();
    assert_eq!(fake.asked("StopUnit"), 1);
    assert_eq!(fake.asked("ResetFailedUnit"), 1);
    drop(fake);

    let script = vec![
        ("StartTransientUnit", vec![exists.clone()]),
        (
            "ListUnitsByPatterns",
            vec![Answer::Units(&[("u.scope", "another's")])],
        ),
    ];
    let fake = FakeSystemd::start(&bus, script).await;
    let error = bus.client().start_scope(&scope()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "u.scope is there already, and is not of this server: \"another's\""
    );
    assert_eq!(fake.asked("StopUnit"), 0);
    drop(fake);

    // Slices are shared: whoever made it, it serves.
    let script = vec![
        ("StartTransientUnit", vec![exists]),
        (
            "ListUnitsByPatterns",
            vec![Answer::Units(&[("a.slice", "another's")])],
        ),
    ];
    let _fake = FakeSystemd::start(&bus, script).await;
    let slice = Slice {
        unit: "a.slice".to_owned(),
        description: "ours".to_owned(),
        properties: Vec::new(),
    };
    assert!(!bus.client().start_slice(&slice).await.unwrap());
}

#[tokio::test]
async fn what_is_not_there_is_stopped_and_what_is_no_bus_is_an_error() {
    let bus = Bus::start();
    let gone = Answer::Error("org.freedesktop.systemd1.NoSuchUnit");
    let script = vec![
        ("StopUnit", vec![gone.clone()]),
        ("KillUnit", vec![gone.clone()]),
        ("ResetFailedUnit", vec![gone]),
    ];
    let _fake = FakeSystemd::start(&bus, script).await;
    let client = bus.client();
    client.stop("u.scope").await.unwrap();
    client.kill("u.scope").await.unwrap();
    client.reset_failed("u.scope").await.unwrap();

    let nowhere = Systemd::new("unix:path=/no/such/socket", deadlines());
    let error = nowhere.version().await.unwrap_err();
    assert!(matches!(error, SystemdError::Unreachable { .. }), "{error}");
    // A bus, and no systemd on it.
    let lonely = Bus::start();
    let client = Systemd::new(
        &lonely.address(),
        Deadlines {
            connect: Duration::from_millis(300),
            ..deadlines()
        },
    );
    let error = client.version().await.unwrap_err();
    assert!(matches!(error, SystemdError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let bus = Bus::start();
    let script = vec![("Get Version", vec![Answer::Text("252")])];
    let _fake = FakeSystemd::start(&bus, script).await;
    let client = Systemd::new(
        &bus.address(),
        Deadlines {
            idle: Duration::from_millis(50),
            ..deadlines()
        },
    );
    assert_eq!(client.version().await.unwrap(), "252");
    let closed = async {
        while client.is_connected() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), closed)
        .await
        .unwrap();
    assert_eq!(client.version().await.unwrap(), "252");
}
