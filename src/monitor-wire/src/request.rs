//! What the server asks of a monitor.

use crate::{
    Frame, WireError,
    fields::{Reader, Writer},
};

const NAMESPACES: u16 = 1;
const CREATE: u16 = 2;
const SIGNAL: u16 = 3;
const EXEC: u16 = 4;
const CANCEL: u16 = 5;
const REOPEN_LOG: u16 = 6;
const STATE: u16 = 7;
const FORGET: u16 = 8;
const END: u16 = 9;

/// A request. Paths are bytes, absolute, and mean the monitor's mount namespace, which is the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make and pin namespaces. Answered by `Done`.
    Namespaces(NamespaceOrder),
    /// Create a container. Answered by `Created`.
    Create(CreateOrder),
    /// Signal a container's init process. Answered by `Done`.
    Signal {
        /// Container id.
        id: String,
        /// Linux signal number.
        signal: i32,
    },
    /// Run a process in a container; carries its descriptors. Answered by `ExecStarted`, then `ExecEnded`.
    Exec(ExecOrder),
    /// Kill an exec of this connection with all its descendants. Its `ExecEnded` (or failure) follows; no answer of its own.
    Cancel {
        /// The correlation number of the exec.
        exec: u32,
    },
    /// Open a container's log file anew. Answered by `Done`.
    ReopenLog {
        /// Container id.
        id: String,
        /// Nanoseconds of the node's monotonic clock (`CLOCK_MONOTONIC`) from which on it must not be done any more: whoever asked
        /// has given up by then. A monitor older than this field does it whenever it comes to it.
        until_ns: Option<u64>,
    },
    /// Tell everything. Answered by `State`.
    State,
    /// Drop an ended container. Answered by `Done`, as soon as it has ended.
    Forget {
        /// Container id.
        id: String,
        /// How long to wait for its end.
        deadline_ms: u64,
    },
    /// Unpin namespaces and exit. Answered by `Done`, then the connection closes.
    End,
}

/// Which namespaces to make and where to pin them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceOrder {
    /// Pin of the network namespace.
    pub network: Option<Vec<u8>>,
    /// Pin of the IPC namespace.
    pub ipc: Option<Vec<u8>>,
    /// Pin of the UTS namespace.
    pub uts: Option<Vec<u8>>,
    /// Host name in the new UTS namespace.
    pub hostname: Option<Vec<u8>>,
    /// `name=value`; a value may hold further equals signs.
    pub sysctls: Vec<Vec<u8>>,
    /// A user namespace, which then owns the others. A monitor older than this field makes those without it.
    pub user: Option<UserOrder>,
}

/// A user namespace to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserOrder {
    /// Its pin.
    pub pin: Vec<u8>,
    /// Text of its `uid_map`: lines of first id inside, first id outside, count.
    pub uid_map: Vec<u8>,
    /// Text of its `gid_map`.
    pub gid_map: Vec<u8>,
}

/// The memory cgroup whose kills are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomWatch {
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Its directory.
    pub directory: Vec<u8>,
}

/// How to create a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateOrder {
    /// Container id.
    pub id: String,
    /// The whole command line, program first.
    pub command: Vec<Vec<u8>>,
    /// Where the command writes the container's pid.
    pub pid_file: Vec<u8>,
    /// CRI log file.
    pub log: Option<Vec<u8>>,
    /// Present for a terminal: where the monitor listens for its master. The command line names the same path.
    pub console_socket: Option<Vec<u8>>,
    /// Keep stdin open for attaching clients.
    pub stdin: bool,
    /// Close stdin when the first attached client has gone.
    pub stdin_once: bool,
    /// Whose out-of-memory kills are watched.
    pub oom: Option<OomWatch>,
    /// Where the exit is written.
    pub exit_file: Vec<u8>,
    /// Where attaching clients connect.
    pub attach_socket: Option<Vec<u8>>,
    /// Time for the command.
    pub deadline_ms: u64,
}

/// How to run a process in a container. Without a console socket the frame carries stdin (if `stdin`), stdout, stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOrder {
    /// Container id.
    pub id: String,
    /// The whole command line, program first.
    pub command: Vec<Vec<u8>>,
    /// Where the command writes the process's pid.
    pub pid_file: Vec<u8>,
    /// Present for a terminal, whose master goes back with `ExecStarted`.
    pub console_socket: Option<Vec<u8>>,
    /// The first descriptor is stdin.
    pub stdin: bool,
    /// Time for command and process together.
    pub deadline_ms: Option<u64>,
}

impl Request {
    /// The frame of this request, without descriptors.
    pub fn to_frame(&self, correlation: u32) -> Frame {
        let mut w = Writer::default();
        let kind = match self {
            Self::Namespaces(order) => {
                w.optional(1, order.network.as_deref())
                    .optional(2, order.ipc.as_deref())
                    .optional(3, order.uts.as_deref())
                    .optional(4, order.hostname.as_deref())
                    .list(5, &order.sysctls);
                if let Some(user) = &order.user {
                    w.bytes(6, &user.pin)
                        .bytes(7, &user.uid_map)
                        .bytes(8, &user.gid_map);
                }
                NAMESPACES
            }
            Self::Create(order) => {
                write_create(&mut w, order);
                CREATE
            }
            Self::Signal { id, signal } => {
                w.bytes(1, id.as_bytes()).signed(2, i64::from(*signal));
                SIGNAL
            }
            Self::Exec(order) => {
                w.bytes(1, order.id.as_bytes())
                    .list(2, &order.command)
                    .bytes(3, &order.pid_file)
                    .optional(4, order.console_socket.as_deref())
                    .flag(5, order.stdin);
                if let Some(deadline_ms) = order.deadline_ms {
                    w.number(6, deadline_ms);
                }
                EXEC
            }
            Self::Cancel { exec } => {
                w.number(1, u64::from(*exec));
                CANCEL
            }
            Self::ReopenLog { id, until_ns } => {
                w.bytes(1, id.as_bytes());
                if let Some(until_ns) = until_ns {
                    w.number(2, *until_ns);
                }
                REOPEN_LOG
            }
            Self::State => STATE,
            Self::Forget { id, deadline_ms } => {
                w.bytes(1, id.as_bytes()).number(2, *deadline_ms);
                FORGET
            }
            Self::End => END,
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
            NAMESPACES => read_namespaces(fields).map(Self::Namespaces),
            CREATE => read_create(fields).map(Self::Create),
            EXEC => read_exec(fields).map(Self::Exec),
            SIGNAL => {
                let (mut id, mut signal) = (None, None);
                for field in fields {
                    let field = field?;
                    match field.tag {
                        1 => id = Some(field.text()?),
                        2 => signal = Some(field.narrow_signed()?),
                        _ => {}
                    }
                }
                Ok(Self::Signal {
                    id: id.ok_or(WireError::Missing(1))?,
                    signal: signal.ok_or(WireError::Missing(2))?,
                })
            }
            CANCEL => {
                let mut exec = None;
                for field in fields {
                    let field = field?;
                    if field.tag == 1 {
                        exec = Some(field.narrow()?);
                    }
                }
                Ok(Self::Cancel {
                    exec: exec.ok_or(WireError::Missing(1))?,
                })
            }
            REOPEN_LOG => {
                let (id, until_ns) = read_id(fields)?;
                Ok(Self::ReopenLog { id, until_ns })
            }
            STATE => Ok(Self::State),
            FORGET => {
                let (id, deadline_ms) = read_id(fields)?;
                Ok(Self::Forget {
                    id,
                    deadline_ms: deadline_ms.unwrap_or_default(),
                })
            }
            END => Ok(Self::End),
            kind => Err(WireError::Kind(kind)),
        }
    }
}

fn write_create(w: &mut Writer, order: &CreateOrder) {
    w.bytes(1, order.id.as_bytes())
        .list(2, &order.command)
        .bytes(3, &order.pid_file)
        .optional(4, order.log.as_deref())
        .optional(5, order.console_socket.as_deref())
        .flag(6, order.stdin)
        .flag(7, order.stdin_once);
    if let Some(oom) = &order.oom {
        w.number(8, u64::from(oom.cgroup_version))
            .bytes(9, &oom.directory);
    }
    w.bytes(10, &order.exit_file)
        .optional(11, order.attach_socket.as_deref())
        .number(12, order.deadline_ms);
}

fn read_namespaces(fields: Reader<'_>) -> Result<NamespaceOrder, WireError> {
    let mut order = NamespaceOrder::default();
    let mut user = UserOrder::default();
    for field in fields {
        let field = field?;
        match field.tag {
            1 => order.network = Some(field.owned()),
            2 => order.ipc = Some(field.owned()),
            3 => order.uts = Some(field.owned()),
            4 => order.hostname = Some(field.owned()),
            5 => order.sysctls.push(field.owned()),
            6 => user.pin = field.owned(),
            7 => user.uid_map = field.owned(),
            8 => user.gid_map = field.owned(),
            _ => {}
        }
    }
    if user != UserOrder::default() {
        require(6, !user.pin.is_empty())?;
        require(7, !user.uid_map.is_empty())?;
        require(8, !user.gid_map.is_empty())?;
        order.user = Some(user);
    }
    Ok(order)
}

fn read_create(fields: Reader<'_>) -> Result<CreateOrder, WireError> {
    let mut order = CreateOrder::default();
    let (mut version, mut directory) = (None, None);
    for field in fields {
        let field = field?;
        match field.tag {
            1 => order.id = field.text()?,
            2 => order.command.push(field.owned()),
            3 => order.pid_file = field.owned(),
            4 => order.log = Some(field.owned()),
            5 => order.console_socket = Some(field.owned()),
            6 => order.stdin = field.flag()?,
            7 => order.stdin_once = field.flag()?,
            8 => version = Some(field.narrow()?),
            9 => directory = Some(field.owned()),
            10 => order.exit_file = field.owned(),
            11 => order.attach_socket = Some(field.owned()),
            12 => order.deadline_ms = field.number()?,
            _ => {}
        }
    }
    order.oom = version
        .zip(directory)
        .map(|(cgroup_version, directory)| OomWatch {
            cgroup_version,
            directory,
        });
    require(1, !order.id.is_empty())?;
    require(2, !order.command.is_empty())?;
    require(3, !order.pid_file.is_empty())?;
    require(10, !order.exit_file.is_empty())?;
    Ok(order)
}

fn read_exec(fields: Reader<'_>) -> Result<ExecOrder, WireError> {
    let mut order = ExecOrder::default();
    for field in fields {
        let field = field?;
        match field.tag {
            1 => order.id = field.text()?,
            2 => order.command.push(field.owned()),
            3 => order.pid_file = field.owned(),
            4 => order.console_socket = Some(field.owned()),
            5 => order.stdin = field.flag()?,
            6 => order.deadline_ms = Some(field.number()?),
            _ => {}
        }
    }
    require(1, !order.id.is_empty())?;
    require(2, !order.command.is_empty())?;
    require(3, !order.pid_file.is_empty())?;
    Ok(order)
}

fn read_id(fields: Reader<'_>) -> Result<(String, Option<u64>), WireError> {
    let (mut id, mut number) = (None, None);
    for field in fields {
        let field = field?;
        match field.tag {
            1 => id = Some(field.text()?),
            2 => number = Some(field.number()?),
            _ => {}
        }
    }
    Ok((id.ok_or(WireError::Missing(1))?, number))
}

fn require(tag: u8, present: bool) -> Result<(), WireError> {
    present.then_some(()).ok_or(WireError::Missing(tag))
}
