//! What a monitor answers and tells.

use crate::{
    Frame, WireError,
    fields::{Field, Reader, Writer},
};

const DONE: u16 = 100;
const CREATED: u16 = 101;
const EXEC_STARTED: u16 = 102;
const EXEC_ENDED: u16 = 103;
const STATE: u16 = 104;
const FAILED: u16 = 105;
const EXITED: u16 = 200;
const OOM: u16 = 201;

/// Everything that a monitor sends: replies (correlation other than 0) and events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromMonitor {
    /// It is done.
    Done,
    /// A container was created.
    Created {
        /// Its init process.
        pid: u32,
    },
    /// An exec's process runs. With a terminal, its master travels along.
    ExecStarted {
        /// The process.
        pid: u32,
    },
    /// An exec's process has ended and was reaped.
    ExecEnded {
        /// Exit code, 128 + n for signal n.
        code: i32,
        /// It was killed at its deadline.
        timed_out: bool,
    },
    /// Everything the monitor knows.
    State {
        /// The monitor's own release.
        release: String,
        /// Its containers.
        containers: Vec<ContainerRecord>,
    },
    /// It did not work.
    Failed {
        /// Why, for programs.
        failure: Failure,
        /// Why, for people.
        message: String,
        /// What the runtime printed to stderr, its end, when the runtime failed.
        output: Vec<u8>,
    },
    /// Event: a container ended; exit file and log are written.
    Exited {
        /// Container id.
        id: String,
        /// How.
        exit: ExitRecord,
    },
    /// Event: the kernel killed a process of this container for lack of memory.
    Oom {
        /// Container id.
        id: String,
    },
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No such container.
    NotFound,
    /// It is there already.
    Exists,
    /// The container has ended.
    NotRunning,
    /// Containers are alive.
    Busy,
    /// The request makes no sense.
    Invalid,
    /// A system call failed.
    Io,
    /// The runtime failed; `output` may tell why, its log surely does.
    Runtime,
    /// The deadline passed; what was started is gone.
    Deadline,
    /// The monitor does not know this kind of request.
    Unsupported,
    /// A reason that this release does not know.
    Unknown,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitRecord {
    /// Exit code, 128 + n for signal n.
    pub code: i32,
    /// The kernel killed a process of it for lack of memory.
    pub oom_killed: bool,
    /// Whose limit that was.
    pub oom_limit: OomLimit,
    /// Nanoseconds since 1970.
    pub at_unix_ns: i64,
}

/// Whose limit of memory was reached when the kernel killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OomLimit {
    /// Nothing was killed, or the kernel does not tell (cgroup v1), or the monitor is older than this field.
    #[default]
    Unknown,
    /// The container's own.
    Own,
    /// That of a cgroup above it, such as its pod's, or the node had no more.
    Above,
}

/// What a monitor knows of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerRecord {
    /// Container id.
    pub id: String,
    /// Its init process; `None` while it is being created.
    pub pid: Option<u32>,
    /// How it ended.
    pub exit: Option<ExitRecord>,
    /// The kernel killed a process of it for lack of memory.
    pub oom_killed: bool,
    /// Bytes of output that its log could not take.
    pub log_dropped_bytes: u64,
}

impl OomLimit {
    fn number(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Own => 1,
            Self::Above => 2,
        }
    }

    fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Own,
            2 => Self::Above,
            _ => Self::Unknown,
        }
    }
}

impl Failure {
    fn number(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::NotFound => 1,
            Self::Exists => 2,
            Self::NotRunning => 3,
            Self::Busy => 4,
            Self::Invalid => 5,
            Self::Io => 6,
            Self::Runtime => 7,
            Self::Deadline => 8,
            Self::Unsupported => 9,
        }
    }

    fn from_number(number: u64) -> Self {
        match number {
            1 => Self::NotFound,
            2 => Self::Exists,
            3 => Self::NotRunning,
            4 => Self::Busy,
            5 => Self::Invalid,
            6 => Self::Io,
            7 => Self::Runtime,
            8 => Self::Deadline,
            9 => Self::Unsupported,
            _ => Self::Unknown,
        }
    }
}

impl FromMonitor {
    /// The frame of this message, without descriptors.
    pub fn to_frame(&self, correlation: u32) -> Frame {
        let mut w = Writer::default();
        let kind = match self {
            Self::Done => DONE,
            Self::Created { pid } => {
                w.number(1, u64::from(*pid));
                CREATED
            }
            Self::ExecStarted { pid } => {
                w.number(1, u64::from(*pid));
                EXEC_STARTED
            }
            Self::ExecEnded { code, timed_out } => {
                w.signed(1, i64::from(*code)).flag(2, *timed_out);
                EXEC_ENDED
            }
            Self::State {
                release,
                containers,
            } => {
                w.bytes(1, release.as_bytes());
                for container in containers {
                    w.bytes(2, &write_container(container));
                }
                STATE
            }
            Self::Failed {
                failure,
                message,
                output,
            } => {
                w.number(1, failure.number())
                    .bytes(2, message.as_bytes())
                    .bytes(3, output);
                FAILED
            }
            Self::Exited { id, exit } => {
                w.bytes(1, id.as_bytes());
                write_exit(&mut w, exit);
                EXITED
            }
            Self::Oom { id } => {
                w.bytes(1, id.as_bytes());
                OOM
            }
        };
        Frame {
            descriptors: 0,
            kind,
            correlation,
            body: w.finish(),
        }
    }

    /// Understands a frame.
    pub fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        let fields = Reader::new(&frame.body);
        match frame.kind {
            DONE => Ok(Self::Done),
            CREATED => Ok(Self::Created {
                pid: read_pid(fields)?,
            }),
            EXEC_STARTED => Ok(Self::ExecStarted {
                pid: read_pid(fields)?,
            }),
            EXEC_ENDED => {
                let (mut code, mut timed_out) = (None, false);
                for field in fields {
                    let field = field?;
                    match field.tag {
                        1 => code = Some(field.narrow_signed()?),
                        2 => timed_out = field.flag()?,
                        _ => {}
                    }
                }
                Ok(Self::ExecEnded {
                    code: code.ok_or(WireError::Missing(1))?,
                    timed_out,
                })
            }
            STATE => {
                let (mut release, mut containers) = (String::new(), Vec::new());
                for field in fields {
                    let field = field?;
                    match field.tag {
                        1 => release = field.text()?,
                        2 => containers.push(read_container(field.value)?),
                        _ => {}
                    }
                }
                Ok(Self::State {
                    release,
                    containers,
                })
            }
            FAILED => {
                let (mut failure, mut message, mut output) =
                    (Failure::Unknown, String::new(), Vec::new());
                for field in fields {
                    let field = field?;
                    match field.tag {
                        1 => failure = Failure::from_number(field.number()?),
                        2 => message = field.text()?,
                        3 => output = field.owned(),
                        _ => {}
                    }
                }
                Ok(Self::Failed {
                    failure,
                    message,
                    output,
                })
            }
            EXITED => {
                let record = read_container(&frame.body)?;
                Ok(Self::Exited {
                    id: record.id,
                    exit: record.exit.ok_or(WireError::Missing(3))?,
                })
            }
            OOM => Ok(Self::Oom {
                id: read_container(&frame.body)?.id,
            }),
            kind => Err(WireError::Kind(kind)),
        }
    }
}

fn read_pid(fields: Reader<'_>) -> Result<u32, WireError> {
    let mut pid = None;
    for field in fields {
        let field = field?;
        if field.tag == 1 {
            pid = Some(field.narrow()?);
        }
    }
    pid.ok_or(WireError::Missing(1))
}

// A container's fields: 1 id, 2 pid, 3 exit code, 4 OOM, 5 end, 6 dropped bytes, 7 whose limit. Events use the same tags.
fn write_container(container: &ContainerRecord) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(1, container.id.as_bytes());
    if let Some(pid) = container.pid {
        w.number(2, u64::from(pid));
    }
    match &container.exit {
        Some(exit) => write_exit(&mut w, exit),
        None => {
            w.flag(4, container.oom_killed);
        }
    }
    if container.log_dropped_bytes > 0 {
        w.number(6, container.log_dropped_bytes);
    }
    w.finish()
}

fn write_exit(w: &mut Writer, exit: &ExitRecord) {
    w.signed(3, i64::from(exit.code))
        .flag(4, exit.oom_killed)
        .signed(5, exit.at_unix_ns);
    if exit.oom_limit != OomLimit::Unknown {
        w.number(7, exit.oom_limit.number());
    }
}

fn read_container(bytes: &[u8]) -> Result<ContainerRecord, WireError> {
    let mut record = ContainerRecord::default();
    let (mut code, mut at_unix_ns, mut oom_limit) = (None, 0, OomLimit::Unknown);
    for field in Reader::new(bytes) {
        let field: Field<'_> = field?;
        match field.tag {
            1 => record.id = field.text()?,
            2 => record.pid = Some(field.narrow()?),
            3 => code = Some(field.narrow_signed()?),
            4 => record.oom_killed = field.flag()?,
            5 => at_unix_ns = field.signed()?,
            6 => record.log_dropped_bytes = field.number()?,
            7 => oom_limit = OomLimit::from_number(field.number()?),
            _ => {}
        }
    }
    if record.id.is_empty() {
        return Err(WireError::Missing(1));
    }
    record.exit = code.map(|code| ExitRecord {
        code,
        oom_killed: record.oom_killed,
        oom_limit,
        at_unix_ns,
    });
    Ok(record)
}
