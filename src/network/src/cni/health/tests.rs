use super::{EAGER, History, UNHURRIED, supported};

#[test]
fn one_failure_of_a_network_that_was_well_does_not_count() {
    let mut history = History::default();
    assert!(history.counts(true));
    assert_eq!(history.pause(), UNHURRIED);
    assert!(!history.counts(false), "a hiccup");
    assert_eq!(history.pause(), EAGER);
    assert!(history.counts(true));
    assert!(!history.counts(false));
    assert!(history.counts(false), "the second in a row");
    assert!(history.counts(false), "the message may be another one");
    assert!(history.counts(true), "well again at once");
}

#[test]
fn the_first_failure_of_a_new_network_counts() {
    let mut history = History::default();
    assert!(history.counts(false));
    assert!(history.counts(false));
}

#[test]
fn versions_are_read_and_nonsense_is_no_answer() {
    let versions = supported(br#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}"#);
    assert_eq!(
        versions,
        Some(["0.4.0".to_owned(), "1.0.0".to_owned()].into())
    );
    for nonsense in [&b""[..], b"{}", b"[]", br#"{"supportedVersions":7}"#] {
        assert_eq!(supported(nonsense), None);
    }
}
