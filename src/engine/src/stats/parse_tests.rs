#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rstest::rstest;

use super::*;

#[rstest]
#[case("0\n", Some(Limit::At(0)))]
#[case("4096\n", Some(Limit::At(4096)))]
#[case("max\n", Some(Limit::Unlimited))]
#[case("-1\n", Some(Limit::Unlimited))]
#[case("9223372036854771712\n", Some(Limit::Unlimited))]
#[case("", None)]
#[case("many\n", None)]
fn limits_may_be_none(#[case] text: &str, #[case] wanted: Option<Limit>) {
    assert_eq!(limit(text), wanted);
}

#[test]
fn names_are_found_whole_and_with_what_is_below() {
    let v1 = Flat("rss 1\nrss_huge 2\ntotal_rss 3\nshmem x\n");
    assert_eq!(v1.get("rss"), Some(1));
    assert_eq!(v1.get("rss_huge"), Some(2));
    assert_eq!(v1.total("rss"), Some(3));
    assert_eq!(v1.get("shmem"), None);
    assert_eq!(v1.get("ss"), None);
    assert_eq!(Flat("anon 7\n").total("anon"), Some(7));
}

#[test]
fn pressure_has_one_line_or_two() {
    let some = "some avg10=1.50 avg60=0.25 avg300=0.01 total=123456\n";
    let full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
    let found = pressure(&format!("{some}{full}")).unwrap();
    assert_eq!(
        found.some,
        PressureLine {
            avg10: 1.5,
            avg60: 0.25,
            avg300: 0.01,
            total_us: 123_456
        }
    );
    assert_eq!(found.full.unwrap().total_us, 7);
    assert_eq!(pressure(some).unwrap().full, None);
    assert_eq!(pressure(full), None);
    assert_eq!(pressure("some avg10=x\n"), None);
    assert_eq!(pressure(""), None);
}

#[rstest]
#[case("max 100000\n", Some((None, 100_000)))]
#[case("20000 100000\n", Some((Some(20_000), 100_000)))]
#[case("20000\n", None)]
#[case("", None)]
fn cpu_limits(#[case] text: &str, #[case] wanted: Option<(Option<u64>, u64)>) {
    assert_eq!(cpu_max(text), wanted);
}

#[rstest]
#[case(0, 2)]
#[case(1, 2)]
#[case(39, 998)]
#[case(10_000, 262_144)]
#[case(u64::MAX, 262_144)]
fn weights_are_shares(#[case] weight: u64, #[case] shares: u64) {
    assert_eq!(shares_of_weight(weight), shares);
}

fn list(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

#[test]
fn devices_of_version_2() {
    let text =
        "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 new=7\n7:1\n253:16 rbytes=9\nbad\n";
    let found = io_stat(text);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].major, found[0].minor), (8, 0));
    assert_eq!(
        found[0].bytes,
        list(&[("Read", 1), ("Write", 2), ("Discard", 5)])
    );
    assert_eq!(
        found[0].operations,
        list(&[("Read", 3), ("Write", 4), ("Discard", 6)])
    );
    assert_eq!((found[1].major, found[1].minor), (253, 16));
    assert_eq!(found[1].bytes, list(&[("Read", 9)]));
}

#[test]
fn devices_of_version_1() {
    let bytes = "8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\n8:0 Total 60\n8:16 Read 1\nTotal 61\n";
    let operations = "8:0 Read 1\n8:0 Write 2\nTotal 3\n";
    let found = blkio(bytes, operations);
    assert_eq!(found.len(), 2);
    assert_eq!(
        found[0].bytes,
        list(&[("Read", 10), ("Write", 20), ("Sync", 30)])
    );
    assert_eq!(found[0].operations, list(&[("Read", 1), ("Write", 2)]));
    assert_eq!((found[1].minor, found[1].operations.len()), (16, 0));
    assert!(blkio("Total 0\n", "Total 0\n").is_empty());
}

#[test]
fn interfaces_with_odd_names() {
    let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
  eth0:1: 11 12 13 14 15 16 17 18 21 22 23 24 25 26 27 28
  cut: 1 2 3
";
    let found = net_dev(text);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].name, "lo");
    assert_eq!(found[1].name, "eth0:1");
    assert_eq!(
        found[1].receive,
        Direction {
            bytes: 11,
            packets: 12,
            errors: 13,
            dropped: 14
        }
    );
    assert_eq!(
        found[1].transmit,
        Direction {
            bytes: 21,
            packets: 22,
            errors: 23,
            dropped: 24
        }
    );
}

#[test]
fn soft_limits_that_are_limits() {
    let text = "\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            1024                 524288               files
Max nice priority         0                    0
";
    assert_eq!(
        soft_limits(text),
        list(&[("max_open_files", 1024), ("max_nice_priority", 0)])
    );
    assert_eq!(
        soft_limits(&std::fs::read_to_string("/proc/self/limits").unwrap())
            .iter()
            .filter(|(name, _)| name == "max_open_files")
            .count(),
        1
    );
}

#[rstest]
#[case("hugepages-2048kB", Some("2MB"))]
#[case("hugepages-1048576kB", Some("1GB"))]
#[case("hugepages-64kB", Some("64KB"))]
#[case("hugepages-0kB", None)]
#[case("hugepages", None)]
fn sizes_of_huge_pages(#[case] directory: &str, #[case] wanted: Option<&str>) {
    assert_eq!(huge_page_size(directory).as_deref(), wanted);
}
