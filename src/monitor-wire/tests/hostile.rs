//! Bytes from a broken or hostile peer: refused, never a panic, never more memory than a frame.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use pintle_monitor_wire::{
    CreateOrder, ExecOrder, FRAME_BYTES_MAX, Frame, FrameBuffer, FromMonitor, NamespaceOrder,
    Request, UserOrder, WireError,
    attach::{AttachBuffer, AttachFrame, PAYLOAD_BYTES_MAX},
};
use proptest::{collection::vec, option, prelude::*};

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..40)
}

fn any_request() -> impl Strategy<Value = Request> {
    let namespaces = (
        option::of(any_bytes()),
        option::of(any_bytes()),
        option::of(any_bytes()),
        option::of(any_bytes()),
        vec(any_bytes(), 0..4),
        option::of((some_bytes(), some_bytes(), some_bytes())),
    )
        .prop_map(|(network, ipc, uts, hostname, sysctls, user)| {
            Request::Namespaces(NamespaceOrder {
                network,
                ipc,
                uts,
                hostname,
                sysctls,
                user: user.map(|(pin, uid_map, gid_map)| UserOrder {
                    pin,
                    uid_map,
                    gid_map,
                }),
            })
        });
    let create = (
        "[a-z]{1,8}",
        vec(any_bytes(), 1..5),
        some_bytes(),
        option::of(any_bytes()),
        any::<(bool, bool)>(),
        some_bytes(),
        any::<u64>(),
    )
        .prop_map(
            |(id, command, pid_file, path, (stdin, stdin_once), exit_file, deadline_ms)| {
                Request::Create(CreateOrder {
                    id,
                    command,
                    pid_file,
                    log: path.clone(),
                    console_socket: path.clone(),
                    stdin,
                    stdin_once,
                    oom: None,
                    exit_file,
                    attach_socket: path,
                    deadline_ms,
                })
            },
        );
    let exec = (
        "[a-z]{1,8}",
        vec(any_bytes(), 1..5),
        some_bytes(),
        option::of(any::<u64>()),
    )
        .prop_map(|(id, command, pid_file, deadline_ms)| {
            Request::Exec(ExecOrder {
                id,
                command,
                pid_file,
                console_socket: None,
                stdin: false,
                deadline_ms,
            })
        });
    prop_oneof![
        namespaces,
        create,
        exec,
        ("[a-z]{0,8}", any::<i32>()).prop_map(|(id, signal)| Request::Signal { id, signal }),
        any::<u32>().prop_map(|exec| Request::Cancel { exec }),
    ]
}

proptest! {
    #[test]
    fn requests_survive_the_way(request in any_request(), correlation in any::<u32>(), cut in 1_usize..64) {
        let bytes = request.to_frame(correlation).encode().unwrap();
        let mut buffer = FrameBuffer::default();
        let mut seen = Vec::new();
        for chunk in bytes.chunks(cut) {
            buffer.push(chunk);
            seen.extend(buffer.next_frame().unwrap());
        }
        prop_assert_eq!(seen.len(), 1);
        prop_assert_eq!(seen[0].correlation, correlation);
        prop_assert_eq!(Request::from_frame(&seen[0]).unwrap(), request);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..300)) {
        let mut buffer = FrameBuffer::default();
        buffer.push(&bytes);
        while let Ok(Some(frame)) = buffer.next_frame() {
            let _ = Request::from_frame(&frame);
            let _ = FromMonitor::from_frame(&frame);
        }
        let mut buffer = AttachBuffer::default();
        buffer.push(&bytes);
        while let Ok(Some(_)) = buffer.next_frame() {}
    }

    #[test]
    fn any_body_is_read_without_panic(kind in prop_oneof![0_u16..12, 98_u16..110, 198_u16..204], body in vec(any::<u8>(), 0..200)) {
        let frame = Frame { descriptors: 0, kind, correlation: 1, body };
        let _ = Request::from_frame(&frame);
        let _ = FromMonitor::from_frame(&frame);
    }

    #[test]
    fn a_damaged_request_is_read_without_panic(request in any_request(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut frame = request.to_frame(1);
        if !frame.body.is_empty() {
            let at = at.index(frame.body.len());
            frame.body[at] = byte;
        }
        let _ = Request::from_frame(&frame);
        frame.body.truncate(at.index(frame.body.len() + 1));
        let _ = Request::from_frame(&frame);
    }
}

#[test]
fn lengths_beyond_the_bound_are_refused_before_they_are_awaited() {
    let mut buffer = FrameBuffer::default();
    buffer.push(&u32::MAX.to_le_bytes());
    assert_eq!(
        buffer.next_frame(),
        Err(WireError::Length(u32::MAX as usize))
    );
    let mut buffer = FrameBuffer::default();
    buffer.push(&3_u32.to_le_bytes());
    assert_eq!(buffer.next_frame(), Err(WireError::Length(3)));
    let mut buffer = AttachBuffer::default();
    buffer.push(&[0, 255, 255, 255, 255]);
    assert_eq!(
        buffer.next_frame(),
        Err(WireError::Length(u32::MAX as usize))
    );
}

#[test]
fn too_long_messages_are_not_sent() {
    let frame = Frame {
        descriptors: 0,
        kind: 1,
        correlation: 1,
        body: vec![0; FRAME_BYTES_MAX],
    };
    assert!(matches!(frame.encode(), Err(WireError::Length(_))));
    let frame = AttachFrame::Stdin(vec![0; PAYLOAD_BYTES_MAX + 1]);
    assert!(matches!(frame.encode(), Err(WireError::Length(_))));
}

#[test]
fn versions_and_descriptor_counts_are_checked() {
    let mut bytes = Request::State.to_frame(1).encode().unwrap();
    bytes[4] = 9;
    let mut buffer = FrameBuffer::default();
    buffer.push(&bytes);
    assert_eq!(buffer.next_frame(), Err(WireError::Version(9)));
    bytes[4] = 1;
    bytes[5] = 4;
    let mut buffer = FrameBuffer::default();
    buffer.push(&bytes);
    assert_eq!(buffer.next_frame(), Err(WireError::Descriptors(4)));
}

#[test]
fn attach_frames_of_unknown_kinds_are_skipped() {
    let mut buffer = AttachBuffer::default();
    buffer.push(&[77, 2, 0, 0, 0, 1, 2]);
    buffer.push(&AttachFrame::CloseStdin.encode().unwrap());
    assert_eq!(buffer.next_frame().unwrap(), Some(AttachFrame::CloseStdin));
}
