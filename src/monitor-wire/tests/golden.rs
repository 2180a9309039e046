//! The bytes of every message, as the first release wrote them. A change here breaks monitors that are already
//! running: add fields and kinds instead, with new tags, and add their bytes below.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use monitor_wire::{
    ContainerRecord, CreateOrder, ExecOrder, ExitRecord, Failure, Frame, FrameBuffer, FromMonitor,
    NamespaceOrder, OomLimit, OomWatch, Request, UserOrder,
    attach::{AttachBuffer, AttachFrame},
};
use pintle_monitor_wire as monitor_wire;

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn frame_of(bytes: &[u8]) -> Frame {
    let mut buffer = FrameBuffer::default();
    buffer.push(bytes);
    let frame = buffer.next_frame().unwrap().unwrap();
    assert_eq!(buffer.next_frame().unwrap(), None);
    frame
}

#[track_caller]
fn request(message: &Request, golden: &str) {
    let golden = unhex(golden);
    assert_eq!(
        hex(&message.to_frame(7).encode().unwrap()),
        hex(&golden),
        "{message:?}"
    );
    let frame = frame_of(&golden);
    assert_eq!(frame.correlation, 7);
    assert_eq!(&Request::from_frame(&frame).unwrap(), message);
}

#[track_caller]
fn reply(message: &FromMonitor, golden: &str) {
    let golden = unhex(golden);
    assert_eq!(
        hex(&message.to_frame(7).encode().unwrap()),
        hex(&golden),
        "{message:?}"
    );
    assert_eq!(
        &FromMonitor::from_frame(&frame_of(&golden)).unwrap(),
        message
    );
}

#[track_caller]
fn attach(message: &AttachFrame, golden: &str) {
    let golden = unhex(golden);
    assert_eq!(hex(&message.encode().unwrap()), hex(&golden), "{message:?}");
    let mut buffer = AttachBuffer::default();
    buffer.push(&golden);
    assert_eq!(buffer.next_frame().unwrap().as_ref(), Some(message));
}

fn create() -> CreateOrder {
    CreateOrder {
        id: "c1".into(),
        command: vec![b"/r".to_vec(), b"create".to_vec()],
        pid_file: b"/p".to_vec(),
        log: Some(b"/l".to_vec()),
        console_socket: Some(b"/c".to_vec()),
        stdin: true,
        stdin_once: true,
        oom: Some(OomWatch {
            cgroup_version: 2,
            directory: b"/g".to_vec(),
        }),
        exit_file: b"/e".to_vec(),
        attach_socket: Some(b"/a".to_vec()),
        deadline_ms: 5000,
    }
}

#[test]
fn requests() {
    request(
        &Request::Namespaces(NamespaceOrder {
            network: Some(b"/n".to_vec()),
            ipc: Some(b"/i".to_vec()),
            uts: Some(b"/u".to_vec()),
            hostname: Some(b"h".to_vec()),
            sysctls: vec![b"a=1".to_vec(), b"b=2".to_vec()],
            user: None,
        }),
        "33000000010001000700000001020000002f6e02020000002f6903020000002f750401000000680503000000613d3105 \
         03000000623d32",
    );
    request(
        &Request::Namespaces(NamespaceOrder {
            ipc: Some(b"/i".to_vec()),
            user: Some(UserOrder {
                pin: b"/s".to_vec(),
                uid_map: b"0 9 5\n".to_vec(),
                gid_map: b"0 8 5\n".to_vec(),
            }),
            ..NamespaceOrder::default()
        }),
        "2c000000010001000700000002020000002f6906020000002f73070600000030203920350a080600000030203820350a",
    );
    request(
        &Request::Create(create()),
        "7f00000001000200070000000102000000633102020000002f72020600000063726561746503020000002f7004020000 \
         002f6c05020000002f630608000000010000000000000007080000000100000000000000080800000002000000000000 \
         0009020000002f670a020000002f650b020000002f610c080000008813000000000000",
    );
    request(
        &Request::Signal {
            id: "c1".into(),
            signal: 15,
        },
        "1c00000001000300070000000102000000633102080000000f00000000000000",
    );
    request(
        &Request::Exec(ExecOrder {
            id: "c1".into(),
            command: vec![b"/r".to_vec(), b"exec".to_vec()],
            pid_file: b"/p".to_vec(),
            console_socket: Some(b"/c".to_vec()),
            stdin: true,
            deadline_ms: Some(1000),
        }),
        "4700000001000400070000000102000000633102020000002f7202040000006578656303020000002f7004020000002f \
         63050800000001000000000000000608000000e803000000000000",
    );
    request(
        &Request::Cancel { exec: 6 },
        "15000000010005000700000001080000000600000000000000",
    );
    request(
        &Request::ReopenLog {
            id: "c1".into(),
            until_ns: None,
        },
        "0f000000010006000700000001020000006331",
    );
    request(
        &Request::ReopenLog {
            id: "c1".into(),
            until_ns: Some(10),
        },
        "1c000000010006000700000001020000006331 02080000000a00000000000000",
    );
    request(&Request::State, "080000000100070007000000");
    request(
        &Request::Forget {
            id: "c1".into(),
            deadline_ms: 10,
        },
        "1c00000001000800070000000102000000633102080000000a00000000000000",
    );
    request(&Request::End, "080000000100090007000000");
}

#[test]
fn replies_and_events() {
    reply(&FromMonitor::Done, "080000000100640007000000");
    reply(
        &FromMonitor::Created { pid: 4711 },
        "15000000010065000700000001080000006712000000000000",
    );
    reply(
        &FromMonitor::ExecStarted { pid: 4712 },
        "15000000010066000700000001080000006812000000000000",
    );
    reply(
        &FromMonitor::ExecEnded {
            code: 137,
            timed_out: true,
        },
        "2200000001006700070000000108000000890000000000000002080000000100000000000000",
    );
    reply(
        &FromMonitor::State {
            release: "0.1.0".into(),
            containers: vec![
                ContainerRecord {
                    id: "c1".into(),
                    ..ContainerRecord::default()
                },
                ContainerRecord {
                    id: "c2".into(),
                    pid: Some(4711),
                    exit: Some(ExitRecord {
                        code: 1,
                        oom_killed: true,
                        oom_limit: OomLimit::Unknown,
                        at_unix_ns: 1_000_000_007,
                    }),
                    oom_killed: true,
                    log_dropped_bytes: 9,
                },
            ],
        },
        "6b00000001006800070000000105000000302e312e300207000000010200000063310248000000010200000063320208 \
         00000067120000000000000308000000010000000000000004080000000100000000000000050800000007ca9a3b0000 \
         000006080000000900000000000000",
    );
    reply(
        &FromMonitor::Failed {
            failure: Failure::Runtime,
            message: "no".into(),
            output: b"err".to_vec(),
        },
        "2400000001006900070000000108000000070000000000000002020000006e6f0303000000657272",
    );
    reply(
        &FromMonitor::Exited {
            id: "c2".into(),
            exit: ExitRecord {
                code: -1,
                oom_killed: false,
                oom_limit: OomLimit::Unknown,
                at_unix_ns: 1_000_000_007,
            },
        },
        "290000000100c80007000000010200000063320308000000ffffffffffffffff050800000007ca9a3b00000000",
    );
    // Since it is told whose limit was reached.
    reply(
        &FromMonitor::Exited {
            id: "c2".into(),
            exit: ExitRecord {
                code: 137,
                oom_killed: true,
                oom_limit: OomLimit::Above,
                at_unix_ns: 1,
            },
        },
        "430000000100c80007000000 01020000006332 03080000008900000000000000 04080000000100000000000000 \
         05080000000100000000000000 07080000000200000000000000",
    );
    reply(
        &FromMonitor::Oom { id: "c2".into() },
        "0f0000000100c9000700000001020000006332",
    );
}

#[test]
fn attach_frames() {
    attach(
        &AttachFrame::Hello {
            terminal: true,
            stdin: true,
        },
        "051a0000000108000000010000000000000002080000000100000000000000",
    );
    attach(&AttachFrame::Stdin(b"in".to_vec()), "0002000000696e");
    attach(&AttachFrame::Stdout(b"out".to_vec()), "01030000006f7574");
    attach(&AttachFrame::Stderr(b"err".to_vec()), "0203000000657272");
    attach(
        &AttachFrame::Resize {
            rows: 24,
            columns: 80,
        },
        "030400000018005000",
    );
    attach(&AttachFrame::CloseStdin, "0400000000");
    attach(&AttachFrame::Ended, "0600000000");
    attach(&AttachFrame::Listening, "0700000000");
}

/// A later release's request: fields with tags that this one does not know, and one that it knows left out.
#[test]
fn unknown_fields_are_skipped_and_absent_ones_take_their_default() {
    let mut frame = Request::ReopenLog {
        id: "c1".into(),
        until_ns: None,
    }
    .to_frame(7);
    let mut body = vec![250, 3, 0, 0, 0, 1, 2, 3];
    body.extend_from_slice(&frame.body);
    body.extend_from_slice(&[251, 0, 0, 0, 0]);
    frame.body = body;
    assert_eq!(
        Request::from_frame(&frame).unwrap(),
        Request::ReopenLog {
            id: "c1".into(),
            until_ns: None
        }
    );

    let mut frame = Request::Forget {
        id: "c1".into(),
        deadline_ms: 10,
    }
    .to_frame(7);
    frame.body.truncate(7);
    assert_eq!(
        Request::from_frame(&frame).unwrap(),
        Request::Forget {
            id: "c1".into(),
            deadline_ms: 0
        }
    );
}
