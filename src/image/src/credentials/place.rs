//! What a key of an authentication file stands for: a registry, or the repositories of one below a path.

use crate::reference::normal_host;

/// The name under which Docker's registry answers, which references never carry and files sometimes do.
const DOCKER_ENDPOINT: &str = "registry-1.docker.io";
/// The host of Docker's registry as references carry it.
pub(crate) const DOCKER: &str = "docker.io";
/// How Docker's own tools call it.
pub(crate) const DOCKER_LEGACY_URL: &str = "https://index.docker.io/v1/";

/// A registry host and the path that repositories have to begin with; an empty path covers them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    host: String,
    path: String,
}

impl Place {
    /// Reads a key: `host`, `host:port`, `host/path/prefix`, `https://host`, `https://host/v1/`. `None` if it names no
    /// host.
    pub(crate) fn parse(key: &str) -> Option<Self> {
        let key = key.trim();
        let rest = key
            .strip_prefix("https://")
            .or_else(|| key.strip_prefix("http://"))
            .unwrap_or(key)
            .trim_end_matches('/');
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = normal_host(host);
        if host.is_empty() {
            return None;
        }
        Some(Self {
            host: if host == DOCKER_ENDPOINT {
                DOCKER.to_owned()
            } else {
                host
            },
            // Old tools write the version of the API behind the host. It is no path of repositories.
            path: match path {
                "v1" | "v2" => String::new(),
                path => path.to_owned(),
            },
        })
    }

    /// The registry.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether the key can be meant for nothing but a registry, as other words of a file could be.
    pub(crate) fn is_plain(&self) -> bool {
        self.host == "localhost" || self.host.contains(['.', ':'])
    }

    /// Whether a repository belongs here, and how closely: the length of the path that says so. The longest wins.
    pub(crate) fn covers(&self, host: &str, repository: &str) -> Option<usize> {
        if self.host != host {
            return None;
        }
        let covered = self.path.is_empty()
            || repository
                .strip_prefix(&self.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        covered.then_some(self.path.len())
    }
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("quay.io", "quay.io", "team/app", Some(0))]
    #[case("QUAY.io/", "quay.io", "team/app", Some(0))]
    #[case("https://quay.io", "quay.io", "team/app", Some(0))]
    #[case("https://quay.io/v2/", "quay.io", "team/app", Some(0))]
    #[case("http://quay.io/v1", "quay.io", "team/app", Some(0))]
    #[case("quay.io/team", "quay.io", "team/app", Some(4))]
    #[case("quay.io/team/app", "quay.io", "team/app", Some(8))]
    #[case("https://quay.io/team/", "quay.io", "team/app", Some(4))]
    #[case("quay.io/tea", "quay.io", "team/app", None)]
    #[case("quay.io/team/app/deep", "quay.io", "team/app", None)]
    #[case("quay.io/v1beta", "quay.io", "team/app", None)]
    #[case("quay.io:443", "quay.io", "team/app", None)]
    #[case("localhost:5000", "localhost:5000", "a", Some(0))]
    #[case("[::1]:5000/a", "[::1]:5000", "a/b", Some(1))]
    #[case("quay.io.evil.example", "quay.io", "team/app", None)]
    #[case("evil.example/quay.io", "quay.io", "team/app", None)]
    #[case("https://index.docker.io/v1/", "docker.io", "library/busybox", Some(0))]
    #[case("index.docker.io", "docker.io", "library/busybox", Some(0))]
    #[case("registry-1.docker.io", "docker.io", "library/busybox", Some(0))]
    #[case("docker.io/library", "docker.io", "library/busybox", Some(7))]
    fn covers(
        #[case] key: &str,
        #[case] host: &str,
        #[case] repository: &str,
        #[case] expected: Option<usize>,
    ) {
        let place = Place::parse(key);
        assert_eq!(place.and_then(|p| p.covers(host, repository)), expected);
    }

    #[test]
    fn keys_without_a_host_are_nothing() {
        for key in ["", "  ", "https://", "/team", "https:///v1/"] {
            assert_eq!(Place::parse(key), None, "{key}");
        }
    }
}
