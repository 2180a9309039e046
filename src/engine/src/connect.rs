//! PortForward: a TCP connection to what listens inside a pod.
//!
//! Programs in a pod that are meant for port forwarding alone listen on the pod's loopback only, so that is what is
//! dialled. The sockets are made in the pod's network namespace and connected from here.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use spec::model::NamespaceMode;
use state::PodId;
use sys::socket::{TcpSockets, tcp_sockets};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    Engine,
    error::EngineError,
    node::Node,
    streams::PortStream,
    world::{Pod, PodState},
};

/// How long a port may take to accept. Nothing but a full backlog or a dropping firewall takes longer than an instant.
const DIAL: Duration = Duration::from_secs(10);
/// How much of it 127.0.0.1 may take: where a firewall drops what comes to it, ::1 gets the rest.
const DIAL_V4: Duration = Duration::from_secs(4);

impl Engine {
    /// The full id of a pod whose ports can be connected to at the moment.
    ///
    /// # Errors
    /// There is no such pod, or it is not ready.
    pub fn can_connect(&self, pod: &str) -> Result<PodId, EngineError> {
        let pod = self.node.ready_pod(pod)?;
        Ok(pod.id.clone())
    }
}

impl Node {
    fn ready_pod(&self, id: &str) -> Result<Arc<Pod>, EngineError> {
        let pod = self.find_pod(id)?;
        match pod.state {
            PodState::Ready => Ok(pod),
            PodState::NotReady => Err(EngineError::PodNotReady(pod.id.clone())),
        }
    }

    pub(crate) async fn connect(&self, id: &str, port: u16) -> Result<PortStream, EngineError> {
        let pod = self.ready_pod(id)?;
        let dialled = timeout(DIAL, async {
            let sockets = self.sockets_in(&pod).await?;
            dial(sockets, port)
                .await
                .map_err(|source| unreachable(&pod, port, source))
        });
        match dialled.await {
            Ok(stream) => {
                let stream = stream?;
                // What is forwarded has been waited for by its sender: it goes on at once. Without, it is only slower.
                let _ = stream.set_nodelay(true);
                Ok(PortStream(stream))
            }
            Err(_) => Err(EngineError::Deadline {
                operation: "PortForward",
                stage: "waiting for the port to accept",
                limit: DIAL,
            }),
        }
    }

    async fn sockets_in(&self, pod: &Pod) -> Result<TcpSockets, EngineError> {
        let on_host_network = pod.config.security.namespaces.network == NamespaceMode::Node;
        let netns = (!on_host_network).then(|| self.paths.netns(&pod.id));
        // It starts a thread of its own and waits for it.
        let made = tokio::task::spawn_blocking(move || tcp_sockets(netns.as_deref())).await;
        match made {
            Ok(sockets) => Ok(sockets?),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(EngineError::Interrupted {
                operation: "PortForward",
            }),
        }
    }
}

fn unreachable(pod: &Pod, port: u16, source: io::Error) -> EngineError {
    let pod = pod.id.clone();
    if source.kind() == io::ErrorKind::ConnectionRefused {
        EngineError::PortRefused { pod, port }
    } else {
        EngineError::PortUnreachable { pod, port, source }
    }
}

/// 127.0.0.1 first, then ::1. The error is the first one: of IPv6, a pod may have nothing at all.
async fn dial(sockets: TcpSockets, port: u16) -> io::Result<TcpStream> {
    let v4 = TcpSocket::from_std_stream(sockets.v4);
    let connected = timeout(
        DIAL_V4,
        v4.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
    );
    let error = match connected.await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    let Some(v6) = sockets.v6 else {
        return Err(error);
    };
    let v6 = TcpSocket::from_std_stream(v6);
    v6.connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
        .await
        .map_err(|_| error)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn either_loopback_is_reached_and_a_closed_port_refuses() {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = v4.local_addr().unwrap().port();
        let stream = dial(tcp_sockets(None).unwrap(), port).await.unwrap();
        assert_eq!(v4.accept().await.unwrap().1, stream.local_addr().unwrap());
        drop(v4);
        if let Ok(v6) = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
            let stream = dial(tcp_sockets(None).unwrap(), port).await.unwrap();
            assert_eq!(v6.accept().await.unwrap().1, stream.local_addr().unwrap());
        }
        let error = dial(tcp_sockets(None).unwrap(), port).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
