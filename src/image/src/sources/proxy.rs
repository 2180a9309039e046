//! Which proxy a request goes through: pure, from the configuration, the environment and the host.
//!
//! A proxy's URL may hold a password, so [`ProxyUrl`] prints as `http://***@host:port` in every form.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

/// What the operator says about proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// For registries on plain HTTP.
    pub http: ProxySetting,
    /// For registries on HTTPS.
    pub https: ProxySetting,
    /// Hosts that are asked directly, parted by commas. `None`: what the environment says.
    pub no_proxy: Option<String>,
}

/// Where the choice of a proxy comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxySetting {
    /// `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY`, in either case.
    #[default]
    Environment,
    /// No proxy, whatever the environment says.
    Direct,
    /// This one.
    Through(ProxyUrl),
}

/// The URL of an HTTP proxy, whose user and password are not printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// Reads `http://[user:password@]host[:port]`, or the same with `https`; the scheme can be left out. `None` if it is no
    /// such URL.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let url = if text.contains("://") {
            Url::parse(text)
        } else {
            Url::parse(&format!("http://{text}"))
        };
        url.ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
            .map(Self)
    }

    /// With its secrets, for the HTTP client alone.
    pub(crate) fn with_secrets(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = !self.0.username().is_empty() || self.0.password().is_some();
        let authority = super::plan::authority(&self.0).unwrap_or_default();
        let hidden = if secret { "***@" } else { "" };
        write!(f, "{}://{hidden}{authority}", self.0.scheme())
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The proxies of this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    http: Option<ProxyUrl>,
    https: Option<ProxyUrl>,
    exceptions: Vec<Exception>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// An address and how many of its bits count.
    Network(IpAddr, u32),
    /// A domain and whatever is below it.
    Domain(String),
    /// What is below a domain.
    Below(String),
}

impl Proxies {
    /// `environment` tells the value of a variable.
    pub(crate) fn new(config: &ProxyConfig, environment: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| {
            let upper = name.to_ascii_uppercase();
            [name, &upper]
                .into_iter()
                .find_map(|name| environment(name).filter(|value| !value.is_empty()))
        };
        let proxy = |setting: &ProxySetting, name: &str| match setting {
            ProxySetting::Through(url) => Some(url.clone()),
            ProxySetting::Direct => None,
            ProxySetting::Environment => {
                let text = variable(name).or_else(|| variable("all_proxy"))?;
                let url = ProxyUrl::parse(&text);
                if url.is_none() {
                    // Not repeated: it may hold a secret.
                    tracing::warn!(
                        variable = name,
                        "the proxy of the environment is no http or https URL, and is not used"
                    );
                }
                url
            }
        };
        let exceptions = config
            .no_proxy
            .clone()
            .or_else(|| variable("no_proxy"))
            .unwrap_or_default();
        Self {
            http: proxy(&config.http, "http_proxy"),
            https: proxy(&config.https, "https_proxy"),
            exceptions: exceptions
                .split([',', ' '])
                .filter_map(|word| Exception::parse(word.trim()))
                .collect(),
        }
    }

    /// The proxy on the way to `authority`, which is `host` or `host:port`.
    pub(crate) fn choose(&self, tls: bool, authority: &str) -> Option<&ProxyUrl> {
        let proxy = if tls { &self.https } else { &self.http }.as_ref()?;
        let (host, port) = host_and_port(authority);
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let direct = is_loopback(&host)
            || self
                .exceptions
                .iter()
                .any(|exception| exception.covers(&host, port));
        (!direct).then_some(proxy)
    }
}

impl Exception {
    fn parse(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        if word.is_empty() {
            return None;
        }
        if word == "*" {
            return Some(Self {
                hosts: Hosts::All,
                port: None,
            });
        }
        if let Some((address, bits)) = word.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let bits: u32 = bits.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            return (bits <= most).then_some(Self {
                hosts: Hosts::Network(address, bits),
                port: None,
            });
        }
        let (host, port) = match word.parse::<IpAddr>() {
            // An IPv6 address without brackets has colons and no port.
            Ok(_) => (word.as_str(), None),
            Err(_) => host_and_port(&word),
        };
        let hosts = match host.parse::<IpAddr>() {
            Ok(address) => Hosts::Network(address, 128),
            Err(_) => match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
                Some(domain) => Hosts::Below(domain.to_owned()),
                None => Hosts::Domain(host.to_owned()),
            },
        };
        Some(Self { hosts, port })
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let below = |domain: &str| {
            host.strip_suffix(domain)
                .is_some_and(|rest| rest.ends_with('.'))
        };
        let covered = match &self.hosts {
            Hosts::All => true,
            Hosts::Network(network, bits) => host
                .parse::<IpAddr>()
                .is_ok_and(|address| is_in(address, *network, *bits)),
            Hosts::Domain(domain) => host == domain || below(domain),
            Hosts::Below(domain) => below(domain),
        };
        covered && self.port.is_none_or(|only| only == port)
    }
}

fn is_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let differing = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differing.leading_zeros() >= bits
}

/// `host:port`, `[address]:port`, or either without the port; brackets are taken off.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').unwrap_or((bracketed, ""));
        return (
            host,
            rest.strip_prefix(':').and_then(|port| port.parse().ok()),
        );
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (authority, None),
    }
}

/// Whether a host is this machine: a proxy cannot reach what we mean by it.
fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    fn proxies(no_proxy: &str) -> Proxies {
        let config = ProxyConfig {
            https: ProxySetting::Through(ProxyUrl::parse("proxy:3128").unwrap()),
            no_proxy: Some(no_proxy.to_owned()),
            ..ProxyConfig::default()
        };
        Proxies::new(&config, |_| None)
    }

    #[rstest]
    #[case("", "r.example", true)]
    #[case("", "localhost", false)]
    #[case("", "localhost:5000", false)]
    #[case("", "127.9.9.9:1", false)]
    #[case("", "[::1]:5000", false)]
    #[case("", "localhost.example", true)]
    #[case("*", "r.example", false)]
    #[case("example", "r.example:5000", false)]
    #[case("r.example", "r.example", false)]
    #[case("R.Example", "r.example.", false)]
    #[case("r.example", "other.example", true)]
    #[case("r.example", "bar.example", true)]
    #[case(".example", "example", true)]
    #[case("*.example", "r.example", false)]
    #[case("r.example:5000", "r.example:5000", false)]
    #[case("r.example:5000", "r.example", true)]
    #[case("r.example:443", "r.example", false)]
    #[case("x, 10.0.0.0/8", "10.1.2.3:5000", false)]
    #[case("10.0.0.0/8", "11.1.2.3", true)]
    #[case("10.0.0.1", "10.0.0.1:5000", false)]
    #[case("10.0.0.1", "10.0.0.2", true)]
    #[case("fd00::/8", "[fd12::1]:5000", false)]
    #[case("fd12::1", "[fd12::1]", false)]
    #[case("10.0.0.0/99", "10.0.0.1", true)]
    fn exceptions(#[case] no_proxy: &str, #[case] authority: &str, #[case] proxied: bool) {
        assert_eq!(proxies(no_proxy).choose(true, authority).is_some(), proxied);
    }

    #[test]
    fn the_configuration_wins_over_the_environment() {
        let environment = |name: &str| {
            let value = match name {
                "HTTPS_PROXY" => "http://env:1",
                "http_proxy" => "env:2",
                "NO_PROXY" => "direct.example",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let shown = |config: &ProxyConfig, tls, host: &str| {
            Proxies::new(config, environment)
                .choose(tls, host)
                .map(ToString::to_string)
        };
        let mut config = ProxyConfig::default();
        assert_eq!(shown(&config, true, "r"), Some("http://env:1".into()));
        assert_eq!(shown(&config, false, "r"), Some("http://env:2".into()));
        assert_eq!(shown(&config, true, "direct.example"), None);
        config.https = ProxySetting::Direct;
        config.no_proxy = Some(String::new());
        config.http = ProxySetting::Through(ProxyUrl::parse("own").unwrap());
        assert_eq!(shown(&config, true, "r"), None);
        assert_eq!(
            shown(&config, false, "direct.example"),
            Some("http://own".into())
        );
    }

    #[test]
    fn secrets_of_a_proxy_are_not_printed() {
        let url = ProxyUrl::parse("http://jane:s3cret@proxy.example:3128/").unwrap();
        for text in [format!("{url}"), format!("{url:?}"), format!("{url:#?}")] {
            assert_eq!(text, "http://***@proxy.example:3128");
        }
        assert!(url.with_secrets().contains("s3cret"));
        assert_eq!(ProxyUrl::parse("socks5://x:1"), None);
        assert_eq!(ProxyUrl::parse("http://"), None);
    }
}
