//! What a client asks for in its request, and what it is answered. Pure: headers in, an agreement or a refusal out.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::{Session, status::StatusForm, websocket::Form};

/// In which a client lists the versions that it speaks over SPDY, and is told the one that was chosen.
const STREAM_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// In which a client is told what it may ask for.
const ACCEPTED_VERSIONS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What both sides will speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A process over SPDY.
    Spdy {
        form: StatusForm,
        /// Clients that know sizes of terminals open a stream for them.
        resize: bool,
    },
    /// A process over channels.
    Channels { form: Form, status: StatusForm },
    /// Ports over SPDY.
    SpdyPorts,
    /// Ports over channels, two for each.
    ChannelPorts(Form),
    /// Ports over SPDY within a WebSocket.
    Tunnel,
}

impl Transport {
    /// Its name in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spdy { .. } | Self::SpdyPorts => "spdy",
            Self::Channels { .. } | Self::ChannelPorts(_) => "websocket",
            Self::Tunnel => "spdy within websocket",
        }
    }
}

/// What both sides will speak, and the headers that say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) transport: Transport,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why there will be no session, for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) sentence: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self {
            status,
            sentence: sentence.into(),
            headers: Vec::new(),
        }
    }

    fn with(mut self, name: &HeaderName, values: impl IntoIterator<Item = &'static str>) -> Self {
        let values = values
            .into_iter()
            .map(|value| (name.clone(), HeaderValue::from_static(value)));
        self.headers.extend(values);
        self
    }
}

/// Versions of the exec and attach protocols over SPDY.
const PROCESS_VERSIONS: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// The one version of port-forward over SPDY.
const PORT_VERSIONS: [&str; 1] = ["portforward.k8s.io"];
/// Protocols of exec and attach over WebSocket; the empty one is for clients that name none.
const PROCESS_PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
/// Protocols of port-forward over WebSocket.
const PORT_PROTOCOLS: [&str; 4] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Most ports that channels can carry: two channels for each, of which the last one's number is a character in base64.
const MAX_CHANNEL_PORTS: usize = (0x7f - b'0' as usize) / 2;

/// Agrees with a client, or refuses it.
pub(crate) fn negotiate(
    method: &Method,
    headers: &HeaderMap,
    session: &Session,
) -> Result<Agreed, Refusal> {
    let upgrades = has_token(headers, &header::CONNECTION, "upgrade");
    if upgrades && has_token(headers, &header::UPGRADE, "websocket") {
        websocket(method, headers, session)
    } else if upgrades && has_token(headers, &header::UPGRADE, "spdy/3.1") {
        spdy(headers, session)
    } else {
        Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "this URL is for streams: the request has to upgrade to SPDY/3.1 or to websocket",
        )
        .with(&header::UPGRADE, ["SPDY/3.1", "websocket"]))
    }
}

fn spdy(headers: &HeaderMap, session: &Session) -> Result<Agreed, Refusal> {
    let is_ports = matches!(session, Session::PortForward { .. });
    let known: &[&str] = if is_ports {
        &PORT_VERSIONS
    } else {
        &PROCESS_VERSIONS
    };
    let offered = tokens(headers, &STREAM_PROTOCOL_VERSION);
    let chosen = offered
        .iter()
        .find_map(|offer| known.iter().find(|version| *version == offer));
    let mut answer = vec![
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("SPDY/3.1")),
    ];
    let version = match chosen {
        Some(&version) => {
            answer.push((STREAM_PROTOCOL_VERSION, HeaderValue::from_static(version)));
            version
        }
        // Clients that are older than versions.
        None if offered.is_empty() => "channel.k8s.io",
        None => {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!(
                    "none of the versions {} is spoken here; those that are: {}",
                    offered.join(", "),
                    known.join(", "),
                ),
            )
            .with(&ACCEPTED_VERSIONS, known.iter().copied()));
        }
    };
    let transport = if is_ports {
        Transport::SpdyPorts
    } else {
        Transport::Spdy {
            form: match version {
                "v4.channel.k8s.io" => StatusForm::Json,
                _ => StatusForm::Text,
            },
            resize: matches!(version, "v4.channel.k8s.io" | "v3.channel.k8s.io"),
        }
    };
    Ok(Agreed {
        transport,
        headers: answer,
    })
}

fn websocket(method: &Method, headers: &HeaderMap, session: &Session) -> Result<Agreed, Refusal> {
    if method != Method::GET {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("a WebSocket begins with GET, not with {method}"),
        )
        .with(&header::ALLOW, ["GET"]));
    }
    if !has_token(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(Refusal::new(
            StatusCode::UPGRADE_REQUIRED,
            "only version 13 of WebSocket is spoken here",
        )
        .with(&header::SEC_WEBSOCKET_VERSION, ["13"]));
    }
    let accept = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| accept(key.as_bytes()))
        .ok_or_else(|| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "Sec-WebSocket-Key is missing or is not 16 bytes in base64",
            )
        })?;
    let known: &[&str] = match session {
        Session::PortForward { .. } => &PORT_PROTOCOLS,
        Session::Exec(_) | Session::Attach { .. } => &PROCESS_PROTOCOLS,
    };
    let mut offered = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    if offered.is_empty() {
        offered.push("");
    }
    let chosen = offered
        .iter()
        .find_map(|offer| known.iter().find(|protocol| *protocol == offer))
        .ok_or_else(|| {
            let known: Vec<&str> = known
                .iter()
                .copied()
                .filter(|name| !name.is_empty())
                .collect();
            Refusal::new(
                StatusCode::FORBIDDEN,
                format!(
                    "none of the protocols {} is spoken here; those that are: {}",
                    offered.join(", "),
                    known.join(", "),
                ),
            )
        })?;
    let mut answer = vec![
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    if !chosen.is_empty() {
        answer.push((
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(chosen),
        ));
    }
    let form = Form {
        base64: chosen.contains("base64"),
        close_signal: chosen.starts_with("v5."),
    };
    let transport = match session {
        Session::PortForward { .. } if *chosen == TUNNEL => Transport::Tunnel,
        Session::PortForward { ports, .. } => {
            if ports.is_empty() || ports.len() > MAX_CHANNEL_PORTS {
                return Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    format!(
                        "channels carry from 1 to {MAX_CHANNEL_PORTS} ports that the request for this URL named, and it named {}; \
                         {TUNNEL} carries any",
                        ports.len(),
                    ),
                ));
            }
            Transport::ChannelPorts(form)
        }
        Session::Exec(_) | Session::Attach { .. } => Transport::Channels {
            form,
            status: match chosen.split_once('.') {
                Some(("v4" | "v5", _)) => StatusForm::Json,
                _ => StatusForm::Text,
            },
        },
    };
    Ok(Agreed {
        transport,
        headers: answer,
    })
}

/// The answer to a WebSocket key: its SHA-1 together with a text that the protocol names.
fn accept(key: &[u8]) -> Option<HeaderValue> {
    let key = key.trim_ascii();
    if BASE64_STANDARD.decode(key).ok()?.len() != 16 {
        return None;
    }
    let mut sha1 = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key);
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::from_str(&BASE64_STANDARD.encode(sha1.finish())).ok()
}

/// The parts of a header that is a list, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
        .collect()
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name)
        .iter()
        .any(|token| token.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use engine::streams::Wanted;
    use rstest::rstest;

    use super::*;

    fn attach() -> Session {
        Session::Attach {
            container: "c".to_owned(),
            wanted: Wanted::default(),
        }
    }

    fn ports(ports: &[u16]) -> Session {
        Session::PortForward {
            pod: "p".to_owned(),
            ports: ports.to_vec(),
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn header<'a>(headers: &'a [(HeaderName, HeaderValue)], name: &HeaderName) -> Option<&'a str> {
        let (_, value) = headers.iter().find(|(known, _)| known == name)?;
        value.to_str().ok()
    }

    const SPDY: [(&str, &str); 2] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "SPDY/3.1"),
    ];
    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        // The key and answer of RFC 6455, section 1.3.
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[rstest]
    #[case(&["v4.channel.k8s.io"], Some("v4.channel.k8s.io"), StatusForm::Json, true)]
    #[case(&["v9.channel.k8s.io, v3.channel.k8s.io", "v4.channel.k8s.io"], Some("v3.channel.k8s.io"), StatusForm::Text, true)]
    #[case(&["v2.channel.k8s.io"], Some("v2.channel.k8s.io"), StatusForm::Text, false)]
    #[case(&["channel.k8s.io"], Some("channel.k8s.io"), StatusForm::Text, false)]
    #[case(&[], None, StatusForm::Text, false)]
    fn the_clients_first_known_version_is_chosen(
        #[case] offered: &[&'static str],
        #[case] chosen: Option<&str>,
        #[case] form: StatusForm,
        #[case] resize: bool,
    ) {
        let mut request = headers(&SPDY);
        for offer in offered {
            request.append(STREAM_PROTOCOL_VERSION, HeaderValue::from_static(offer));
        }
        for method in [Method::GET, Method::POST] {
            let agreed = negotiate(&method, &request, &attach()).unwrap();
            assert_eq!(agreed.transport, Transport::Spdy { form, resize });
            assert_eq!(header(&agreed.headers, &STREAM_PROTOCOL_VERSION), chosen);
            assert_eq!(header(&agreed.headers, &header::UPGRADE), Some("SPDY/3.1"));
        }
    }

    #[test]
    fn a_version_that_nobody_speaks_is_refused_with_those_that_are() {
        let mut request = headers(&SPDY);
        request.append(
            STREAM_PROTOCOL_VERSION,
            HeaderValue::from_static("v5.channel.k8s.io"),
        );
        let refusal = negotiate(&Method::POST, &request, &attach()).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        assert_eq!(refusal.headers.len(), 4);
        let refusal = negotiate(&Method::POST, &request, &ports(&[])).unwrap_err();
        assert_eq!(
            header(&refusal.headers, &ACCEPTED_VERSIONS),
            Some("portforward.k8s.io")
        );
    }

    #[rstest]
    #[case("v5.channel.k8s.io", false, true, StatusForm::Json)]
    #[case("v4.channel.k8s.io", false, false, StatusForm::Json)]
    #[case("v4.base64.channel.k8s.io", true, false, StatusForm::Json)]
    #[case("channel.k8s.io", false, false, StatusForm::Text)]
    #[case("base64.channel.k8s.io", true, false, StatusForm::Text)]
    #[case("", false, false, StatusForm::Text)]
    fn channels_have_the_form_of_their_protocol(
        #[case] protocol: &'static str,
        #[case] base64: bool,
        #[case] close_signal: bool,
        #[case] status: StatusForm,
    ) {
        let mut request = headers(&WEBSOCKET);
        request.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocol),
        );
        let agreed = negotiate(&Method::GET, &request, &attach()).unwrap();
        let form = Form {
            base64,
            close_signal,
        };
        assert_eq!(agreed.transport, Transport::Channels { form, status });
        let told = header(&agreed.headers, &header::SEC_WEBSOCKET_PROTOCOL);
        assert_eq!(told, Some(protocol).filter(|protocol| !protocol.is_empty()));
        assert_eq!(
            header(&agreed.headers, &header::SEC_WEBSOCKET_ACCEPT),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
    }

    #[rstest]
    #[case("SPDY/3.1+portforward.k8s.io", &[], Ok(Transport::Tunnel))]
    #[case("v4.channel.k8s.io", &[80], Ok(Transport::ChannelPorts(Form { base64: false, close_signal: false })))]
    #[case("v4.base64.channel.k8s.io", &[80, 81], Ok(Transport::ChannelPorts(Form { base64: true, close_signal: false })))]
    #[case("v4.channel.k8s.io", &[], Err(StatusCode::BAD_REQUEST))]
    #[case("v4.base64.channel.k8s.io", &[1; 40], Err(StatusCode::BAD_REQUEST))]
    #[case("v5.channel.k8s.io", &[80], Err(StatusCode::FORBIDDEN))]
    fn ports_go_over_channels_or_through_a_tunnel(
        #[case] protocol: &'static str,
        #[case] named: &[u16],
        #[case] outcome: Result<Transport, StatusCode>,
    ) {
        let mut request = headers(&WEBSOCKET);
        request.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocol),
        );
        let got = negotiate(&Method::GET, &request, &ports(named));
        assert_eq!(
            got.map(|agreed| agreed.transport)
                .map_err(|refusal| refusal.status),
            outcome
        );
    }

    #[rstest]
    #[case(&[], StatusCode::BAD_REQUEST)]
    #[case(&[("upgrade", "websocket")], StatusCode::BAD_REQUEST)]
    #[case(&[("connection", "upgrade"), ("upgrade", "h2c")], StatusCode::BAD_REQUEST)]
    #[case(&[WEBSOCKET[0], WEBSOCKET[1], WEBSOCKET[3]], StatusCode::UPGRADE_REQUIRED)]
    #[case(&[WEBSOCKET[0], WEBSOCKET[1], WEBSOCKET[2]], StatusCode::BAD_REQUEST)]
    #[case(&[WEBSOCKET[0], WEBSOCKET[1], WEBSOCKET[2], ("sec-websocket-key", "c2hvcnQ=")], StatusCode::BAD_REQUEST)]
    fn requests_that_are_no_upgrades_are_refused(
        #[case] request: &[(&'static str, &'static str)],
        #[case] status: StatusCode,
    ) {
        let refusal = negotiate(&Method::GET, &headers(request), &attach()).unwrap_err();
        assert_eq!(refusal.status, status, "{}", refusal.sentence);
    }

    #[test]
    fn a_websocket_begins_with_get() {
        let refusal = negotiate(&Method::POST, &headers(&WEBSOCKET), &attach()).unwrap_err();
        assert_eq!(refusal.status, StatusCode::METHOD_NOT_ALLOWED);
    }
}
