//! Which part of a policy, or of `registries.d`, is about an image. Pure.
//!
//! From the most to the least specific: the image itself (`docker.io/library/busybox:1.36` or `…@sha256:…`), its repository, each
//! namespace above it, its host with its port, and the host's parent domains (`*.example.com`, `*.com`). The whole file
//! has one entry for everything else, under an empty name or another; that is for the caller to know.

use crate::reference::Reference;

/// The scopes of an image, most specific first. A reference with a digest is known by that alone, since its tag was not
/// looked at.
pub(super) fn scopes(reference: &Reference) -> Vec<String> {
    let mut scopes = vec![reference.identity()];
    let name = reference.name();
    let mut rest = name.as_str();
    loop {
        scopes.push(rest.to_owned());
        match rest.rsplit_once('/') {
            Some((parent, _)) => rest = parent,
            None => break,
        }
    }
    // An IPv6 address has no parent domains.
    if !rest.starts_with('[') {
        let mut domain = rest.split(':').next().unwrap_or_default();
        while let Some((_, parent)) = domain.split_once('.') {
            scopes.push(format!("*.{parent}"));
            domain = parent;
        }
    }
    scopes
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "busybox",
        &["docker.io/library/busybox:latest", "docker.io/library/busybox", "docker.io/library", "docker.io", "*.io"]
    )]
    #[case(
        "a.b.example.com:5000/team/sub/app:1",
        &["a.b.example.com:5000/team/sub/app:1", "a.b.example.com:5000/team/sub/app", "a.b.example.com:5000/team/sub",
          "a.b.example.com:5000/team", "a.b.example.com:5000", "*.b.example.com", "*.example.com", "*.com"]
    )]
    #[case("[::1]:5000/app:1", &["[::1]:5000/app:1", "[::1]:5000/app", "[::1]:5000"])]
    #[case("localhost/app:1", &["localhost/app:1", "localhost/app", "localhost"])]
    fn from_the_image_to_the_domain(#[case] reference: &str, #[case] expected: &[&str]) {
        assert_eq!(scopes(&Reference::parse(reference).unwrap()), expected);
    }

    #[test]
    fn a_digest_hides_the_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference = Reference::parse(&format!("r.example/app:1@{digest}")).unwrap();
        assert_eq!(scopes(&reference)[0], format!("r.example/app@{digest}"));
    }
}
