#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const HEX: &str = "7173b809ca12ec5dee4506cd86be934c4596dd234ee82c0662eac04a8c2c71dc";

#[rstest]
#[case("busybox", "docker.io/library/busybox:latest")]
#[case("docker.io/busybox", "docker.io/library/busybox:latest")]
#[case(
    "index.docker.io/library/busybox:latest",
    "docker.io/library/busybox:latest"
)]
#[case("team/app:1.2_b-3", "docker.io/team/app:1.2_b-3")]
#[case(
    "registry.k8s.io/e2e-test-images/busybox:1.29-2",
    "registry.k8s.io/e2e-test-images/busybox:1.29-2"
)]
#[case("localhost/app", "localhost/app:latest")]
#[case("LOCALHOST:5000/app", "localhost:5000/app:latest")]
#[case("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x")]
#[case("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest")]
#[case("[::1]:5000/app", "[::1]:5000/app:latest")]
#[case("[fe80::1]/app:2", "[fe80::1]/app:2")]
#[case("Registry.Example.COM/app", "registry.example.com/app:latest")]
#[case("host.example/a__b/c--d.e:T", "host.example/a__b/c--d.e:T")]
#[case("deadbeef", "docker.io/library/deadbeef:latest")]
#[case("localhost:5000", "docker.io/library/localhost:5000")]
fn normalises(#[case] given: &str, #[case] normal: &str) {
    let reference = Reference::parse(given).unwrap();
    assert_eq!(reference.to_string(), normal);
    assert_eq!(reference.identity(), normal);
}

#[test]
fn a_digest_binds_and_adds_no_tag() {
    let reference = Reference::parse(&format!("busybox@sha256:{HEX}")).unwrap();
    assert_eq!(reference.tag(), None);
    assert_eq!(reference.target(), format!("sha256:{HEX}"));
    assert_eq!(
        reference.identity(),
        format!("docker.io/library/busybox@sha256:{HEX}")
    );
}

#[test]
fn tag_and_digest_are_recorded_by_digest() {
    let reference = Reference::parse(&format!("localhost:5000/app:1@sha256:{HEX}")).unwrap();
    assert_eq!(reference.tag(), Some("1"));
    assert_eq!(reference.target(), format!("sha256:{HEX}"));
    assert_eq!(
        reference.identity(),
        format!("localhost:5000/app@sha256:{HEX}")
    );
}

#[rstest]
#[case("", ReferenceFault::Empty)]
#[case("https://quay.io/app", ReferenceFault::Scheme)]
#[case("BusyBox", ReferenceFault::UpperCase("BusyBox".into()))]
#[case("Team/app", ReferenceFault::UpperCase("Team".into()))]
#[case("quay.io/Team/app", ReferenceFault::UpperCase("Team".into()))]
#[case("quay.io/", ReferenceFault::NoRepository)]
#[case("[::1]:5000", ReferenceFault::NoRepository)]
#[case("quay.io//app", ReferenceFault::Component(String::new()))]
#[case("a/../b", ReferenceFault::Component("..".into()))]
#[case("a___b", ReferenceFault::Component("a___b".into()))]
#[case("a.-b", ReferenceFault::Component("a.-b".into()))]
#[case("a-", ReferenceFault::Component("a-".into()))]
#[case("app name", ReferenceFault::Component("app name".into()))]
#[case("app%2f", ReferenceFault::Component("app%2f".into()))]
#[case("app:", ReferenceFault::Tag(String::new()))]
#[case("app:.x", ReferenceFault::Tag(".x".into()))]
#[case("app:a b", ReferenceFault::Tag("a b".into()))]
#[case("app@sha256:abc", ReferenceFault::Digest("sha256:abc".into()))]
#[case("app@", ReferenceFault::Digest(String::new()))]
#[case("[::1/app", ReferenceFault::Host("[::1".into()))]
#[case("[::zz]/app", ReferenceFault::Host("[::zz]".into()))]
#[case("-x.io/app", ReferenceFault::Host("-x.io".into()))]
#[case("x..io/app", ReferenceFault::Host("x..io".into()))]
#[case("localhost:0/app", ReferenceFault::Port("0".into()))]
#[case("localhost:70000/app", ReferenceFault::Port("70000".into()))]
#[case("localhost:+80/app", ReferenceFault::Port("+80".into()))]
fn refuses(#[case] given: &str, #[case] fault: ReferenceFault) {
    assert_eq!(Reference::parse(given).unwrap_err().fault, fault);
}

#[test]
fn refuses_an_image_id() {
    assert_eq!(
        Reference::parse(HEX).unwrap_err().fault,
        ReferenceFault::ImageId
    );
}

#[test]
fn bounds_lengths() {
    let longest = format!("quay.io/{}:{}", "a".repeat(247), "t".repeat(128));
    assert!(Reference::parse(&longest).is_ok());
    assert!(matches!(
        Reference::parse(&format!("quay.io/{}", "a".repeat(248)))
            .unwrap_err()
            .fault,
        ReferenceFault::TooLong { .. }
    ));
    assert!(matches!(
        Reference::parse(&format!("a:{}", "t".repeat(129)))
            .unwrap_err()
            .fault,
        ReferenceFault::Tag(_)
    ));
    let error = Reference::parse(&"x".repeat(1 << 20)).unwrap_err();
    assert!(
        error.to_string().len() < 300,
        "a message repeats no megabyte"
    );
}

#[test]
fn messages_carry_no_control_characters() {
    let message = Reference::parse("a\u{1b}[2J\n").unwrap_err().to_string();
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

proptest! {
    #[test]
    fn never_panics(text in ".{0,300}") {
        let _ = Reference::parse(&text);
    }

    #[test]
    fn normal_form_is_a_fixed_point(
        host in prop::option::of("(localhost|[a-z]{1,5}\\.[a-z]{2,3}|\\[::1\\])(:[1-9][0-9]{0,3})?"),
        path in "[a-z0-9]{1,8}((_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,6}){0,2}",
        tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
        digest in any::<bool>(),
    ) {
        let mut text = host.map(|h| format!("{h}/")).unwrap_or_default() + &path;
        if let Some(tag) = &tag {
            text = format!("{text}:{tag}");
        }
        if digest {
            text = format!("{text}@sha256:{HEX}");
        }
        let once = Reference::parse(&text).unwrap();
        let twice = Reference::parse(&once.to_string()).unwrap();
        prop_assert_eq!(&once, &twice);
        let recorded = Reference::parse(&once.identity()).unwrap();
        prop_assert_eq!(recorded.identity(), once.identity());
        prop_assert!(once.tag().is_some() || once.digest().is_some());
    }
}
