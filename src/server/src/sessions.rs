//! Calls that begin a live session: each answers with the URL at which the client finds it.
//!
//! What can be known to be wrong is refused here, for after the upgrade of a connection clients show errors badly. The
//! engine looks again when the session begins.

use api::cri;
use engine::streams::{ExecCommand, Wanted};
use streaming::Session;
use tonic::{Code, Request, Response, Status};

use crate::convert::{At, required_id};
use crate::errors::{engine_status, status};
use crate::face::Face;
use crate::request::Subjects;

impl Face {
    pub(crate) fn exec_url(
        &self,
        request: Request<cri::ExecRequest>,
    ) -> Result<Response<cri::ExecResponse>, Status> {
        let subjects = Subjects::of(&request);
        let request = request.into_inner();
        let id = required_id("container_id", &request.container_id)?;
        subjects.container(id);
        let wanted = wanted(Wanted {
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        })?;
        if request.cmd.is_empty() {
            return Err(refuse("cmd", "is empty"));
        }
        let container = self.engine.can_exec(id);
        let container = container
            .map_err(|error| engine_status(&error))?
            .to_string();
        let url = self.url(Session::Exec(ExecCommand {
            container,
            command: request.cmd,
            wanted,
        }))?;
        Ok(Response::new(cri::ExecResponse { url }))
    }

    pub(crate) fn attach_url(
        &self,
        request: &Request<cri::AttachRequest>,
    ) -> Result<Response<cri::AttachResponse>, Status> {
        let id = required_id("container_id", &request.get_ref().container_id)?;
        Subjects::of(request).container(id);
        let request = request.get_ref();
        let wanted = wanted(Wanted {
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        })?;
        let container = self.engine.can_attach(id);
        let container = container
            .map_err(|error| engine_status(&error))?
            .to_string();
        let url = self.url(Session::Attach { container, wanted })?;
        Ok(Response::new(cri::AttachResponse { url }))
    }

    pub(crate) fn port_forward_url(
        &self,
        request: &Request<cri::PortForwardRequest>,
    ) -> Result<Response<cri::PortForwardResponse>, Status> {
        let id = required_id("pod_sandbox_id", &request.get_ref().pod_sandbox_id)?;
        Subjects::of(request).pod(id);
        let ports = ports(&request.get_ref().port)?;
        let pod = self.engine.can_connect(id);
        let pod = pod.map_err(|error| engine_status(&error))?.to_string();
        let url = self.url(Session::PortForward { pod, ports })?;
        Ok(Response::new(cri::PortForwardResponse { url }))
    }

    fn url(&self, session: Session) -> Result<String, Status> {
        let url = self.tickets.url(session);
        url.map_err(|error| status(Code::ResourceExhausted, &error.to_string()))
    }
}

fn refuse(field: &str, why: impl std::fmt::Display) -> Status {
    At::root(field).refuse(why).into()
}

/// The streams that a client asks for, if they make sense together.
pub(crate) fn wanted(wanted: Wanted) -> Result<Wanted, Status> {
    if wanted.tty && wanted.stderr {
        return Err(refuse(
            "stderr",
            "cannot be had with a tty, whose one output carries everything: ask for stdout",
        ));
    }
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(refuse(
            "stdin, stdout, stderr",
            "are all false: ask for one of them",
        ));
    }
    Ok(wanted)
}

/// Ports that may be forwarded; none named means any.
pub(crate) fn ports(ports: &[i32]) -> Result<Vec<u16>, Status> {
    ports
        .iter()
        .map(|&port| match u16::try_from(port) {
            Ok(port @ 1..) => Ok(port),
            _ => Err(refuse("port", format_args!("{port} is not in 1–65535"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::tty(true, true, true, false, None)]
    #[case::output_of_a_tty(true, false, true, false, None)]
    #[case::input_only(false, true, false, false, None)]
    #[case::errors_only(false, false, false, true, None)]
    #[case::everything(false, true, true, true, None)]
    #[case::errors_of_a_tty(true, true, true, true, Some("stderr"))]
    #[case::nothing(false, false, false, false, Some("stdin, stdout, stderr"))]
    #[case::nothing_of_a_tty(true, false, false, false, Some("stdin, stdout, stderr"))]
    fn streams(
        #[case] tty: bool,
        #[case] stdin: bool,
        #[case] stdout: bool,
        #[case] stderr: bool,
        #[case] refused: Option<&str>,
    ) {
        let asked = Wanted {
            tty,
            stdin,
            stdout,
            stderr,
        };
        match (wanted(asked), refused) {
            (Ok(found), None) => assert_eq!(found, asked),
            (Err(status), Some(field)) => {
                assert_eq!(status.code(), Code::InvalidArgument);
                assert!(status.message().starts_with(field), "{status}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[rstest]
    #[case(0)]
    #[case(-1)]
    #[case(65_536)]
    #[case(i32::MAX)]
    fn numbers_that_are_no_ports(#[case] port: i32) {
        let status = ports(&[80, port]).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(&port.to_string()), "{status}");
    }

    #[test]
    fn numbers_that_are_ports() {
        assert_eq!(ports(&[1, 65_535]).unwrap(), [1, 65_535]);
        assert!(ports(&[]).unwrap().is_empty());
    }
}
