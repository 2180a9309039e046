//! Who a container runs as: ids from the request, the image's `USER`, and the image's `/etc/passwd` and `/etc/group`.
//!
//! Rules:
//! - A user of the request (id, else name) replaces the image's `USER` altogether, its group part included.
//! - Digits are always an id. A file of the image cannot give the name `1000` to user 0 behind the back of a kubelet
//!   that has checked for a non-root id.
//! - Primary group: the request's, else the one written in `USER`, else the one of the passwd entry, else 0.
//! - Groups always begin with the primary one (a process outside its own primary group could get round a file's group
//!   bits); then, under `Merge`, those of `/etc/group` that list the user; then the request's.

mod database;

use crate::error::SpecError;
use crate::model::{RunAs, SupplementalGroupsPolicy};
use database::{Database, Entry};

/// How much of `/etc/passwd` and `/etc/group` is looked at. The files are the image's, so they may be anything.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65_536;

/// The largest id: the one above means "unchanged" to the kernel.
const MAX_ID: u32 = u32::MAX - 1;

/// Who a container runs as, in the ids of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups; the first is the primary one.
    pub groups: Vec<u32>,
}

fn id(field: &'static str, value: i64) -> Result<u32, SpecError> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id <= MAX_ID)
        .ok_or_else(|| SpecError::IdRange {
            field: field.to_owned(),
            value: value.to_string(),
        })
}

/// A user or group as somebody wrote it.
enum Named<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Named<'a> {
    fn parse(field: &'static str, word: &'a str) -> Result<Self, SpecError> {
        let digits = word.strip_prefix('-').unwrap_or(word);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(word));
        }
        word.parse()
            .ok()
            .filter(|id| *id <= MAX_ID)
            .map(Self::Id)
            .ok_or_else(|| SpecError::IdRange {
                field: field.to_owned(),
                value: word.to_owned(),
            })
    }
}

/// Decides who a container runs as.
pub fn resolve(
    run_as: &RunAs,
    image_user: &str,
    passwd: Option<&[u8]>,
    group: Option<&[u8]>,
) -> Result<ResolvedUser, SpecError> {
    const UID: &str = "config.linux.security_context.run_as_user";
    const USERNAME: &str = "config.linux.security_context.run_as_username";
    const GID: &str = "config.linux.security_context.run_as_group";
    const GROUPS: &str = "config.linux.security_context.supplemental_groups";
    const IMAGE: &str = "image config.User";

    let passwd = Database::new(passwd);
    let groups = Database::new(group);

    let requested = run_as.user.is_some() || !run_as.username.is_empty();
    if run_as.group.is_some() && !requested {
        return Err(SpecError::GroupWithoutUser);
    }

    let (user, group_word) = match run_as.user {
        Some(user) => (Named::Id(id(UID, user)?), None),
        None if requested => (Named::parse(USERNAME, &run_as.username)?, None),
        None => match image_user.split_once(':') {
            Some((user, group)) => (
                Named::parse(IMAGE, user)?,
                Some(group).filter(|group| !group.is_empty()),
            ),
            None => (Named::parse(IMAGE, image_user)?, None),
        },
    };
    let field = if requested { USERNAME } else { IMAGE };

    let entry: Option<Entry> = match user {
        Named::Id(uid) => passwd.user_by_id(uid),
        Named::Name("") => passwd.user_by_id(0),
        Named::Name(name) => passwd.user_by_name(name.as_bytes()),
    };
    let uid = match (&user, &entry) {
        (Named::Id(uid), _) => *uid,
        // Every Linux has a root, also an image from scratch.
        (Named::Name("" | "root"), None) => 0,
        (Named::Name(_), Some(entry)) => entry.id,
        (Named::Name(name), None) => {
            return Err(SpecError::UnknownUser {
                field,
                name: (*name).to_owned(),
            });
        }
    };

    let gid = match (run_as.group, group_word) {
        (Some(group), _) => id(GID, group)?,
        (None, Some(word)) => match Named::parse(IMAGE, word)? {
            Named::Id(gid) => gid,
            Named::Name(name) => match groups.group_by_name(name.as_bytes()) {
                Some(gid) => gid,
                None if name == "root" => 0,
                None => {
                    return Err(SpecError::UnknownGroup {
                        field: IMAGE,
                        name: name.to_owned(),
                    });
                }
            },
        },
        (None, None) => entry.as_ref().map_or(0, |entry| entry.group),
    };

    let mut all = vec![gid];
    if run_as.supplemental_groups_policy == SupplementalGroupsPolicy::Merge
        && let Some(entry) = &entry
    {
        all.extend(groups.groups_of(entry.name));
    }
    for &group in &run_as.supplemental_groups {
        all.push(id(GROUPS, group)?);
    }
    let mut seen = std::collections::HashSet::with_capacity(all.len());
    all.retain(|group| seen.insert(*group));
    if all.len() > MAX_GROUPS {
        return Err(SpecError::TooManyGroups {
            field: GROUPS,
            count: all.len(),
            limit: MAX_GROUPS,
        });
    }
    Ok(ResolvedUser {
        uid,
        gid,
        groups: all,
    })
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use rstest::rstest;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        www:x:33:33:www:/var/www:/usr/sbin/nologin\n\
        alice:x:1000:1000::/home/alice:/bin/sh\n\
        1234:x:0:0:a trap:/:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nwheel:x:10:root,alice\nwww:x:33:\nalice:x:1000:\n\
        docker:x:999:bob,alice\nalicex:x:77:alicex\n";

    fn run_as(user: Option<i64>, name: &str, group: Option<i64>) -> RunAs {
        RunAs {
            user,
            username: name.to_owned(),
            group,
            ..RunAs::default()
        }
    }

    #[rstest]
    #[case(run_as(None, "", None), "", 0, 0, &[0, 10])]
    #[case(run_as(None, "", None), "33", 33, 33, &[33])]
    #[case(run_as(None, "", None), "www", 33, 33, &[33])]
    #[case(run_as(None, "", None), "alice", 1000, 1000, &[1000, 10, 999])]
    #[case(run_as(None, "", None), "1000:0", 1000, 0, &[0, 10, 999])]
    #[case(run_as(None, "", None), "alice:wheel", 1000, 10, &[10, 999])]
    #[case(run_as(None, "", None), "5000:wheel", 5000, 10, &[10])]
    #[case(run_as(None, "", None), "5000", 5000, 0, &[0])]
    #[case(run_as(None, "", None), "alice:", 1000, 1000, &[1000, 10, 999])]
    #[case(run_as(None, "", None), ":33", 0, 33, &[33, 10])]
    // The request replaces the image's user and its group.
    #[case(run_as(Some(5000), "", None), "alice:wheel", 5000, 0, &[0])]
    #[case(run_as(Some(1000), "", None), "www", 1000, 1000, &[1000, 10, 999])]
    #[case(run_as(Some(0), "alice", None), "www", 0, 0, &[0, 10])]
    #[case(run_as(None, "alice", None), "www", 1000, 1000, &[1000, 10, 999])]
    #[case(run_as(None, "alice", Some(7)), "www", 1000, 7, &[7, 10, 999])]
    #[case(run_as(Some(1000), "", Some(7)), "", 1000, 7, &[7, 10, 999])]
    // Digits are an id, whatever the image calls its users.
    #[case(run_as(None, "", None), "1234", 1234, 0, &[0])]
    #[case(run_as(None, "1234", None), "", 1234, 0, &[0])]
    fn users(
        #[case] run_as: RunAs,
        #[case] image: &str,
        #[case] uid: u32,
        #[case] gid: u32,
        #[case] groups: &[u32],
    ) {
        let user = resolve(&run_as, image, Some(PASSWD), Some(GROUP)).unwrap();
        assert_eq!(
            (user.uid, user.gid, user.groups.as_slice()),
            (uid, gid, groups)
        );
    }

    #[rstest]
    #[case(SupplementalGroupsPolicy::Merge, &[1000, 10, 999, 5])]
    #[case(SupplementalGroupsPolicy::Strict, &[1000, 999, 5])]
    fn supplemental_groups(#[case] policy: SupplementalGroupsPolicy, #[case] expected: &[u32]) {
        let asked = RunAs {
            supplemental_groups: vec![999, 5, 5],
            supplemental_groups_policy: policy,
            ..run_as(None, "alice", None)
        };
        let user = resolve(&asked, "", Some(PASSWD), Some(GROUP)).unwrap();
        assert_eq!(user.groups, expected);
    }

    #[rstest]
    #[case(run_as(None, "", Some(7)), "alice", "only valid together with")]
    #[case(
        run_as(None, "mallory", None),
        "",
        "run_as_username: the image's /etc/passwd has no user \"mallory\""
    )]
    #[case(
        run_as(None, "", None),
        "mallory",
        "image config.User: the image's /etc/passwd has no user"
    )]
    #[case(run_as(None, "", None), "alice:nogroup", "has no group \"nogroup\"")]
    #[case(run_as(Some(-1), "", None), "", "run_as_user: -1 is not")]
    #[case(run_as(Some(4_294_967_295), "", None), "", "4294967295 is not")]
    #[case(
        run_as(Some(0), "", Some(4_294_967_296)),
        "",
        "run_as_group: 4294967296 is not"
    )]
    #[case(
        run_as(None, "", None),
        "4294967296",
        "image config.User: 4294967296 is not"
    )]
    #[case(run_as(None, "", None), "-5", "image config.User: -5 is not")]
    #[case(
        run_as(None, "", None),
        "0:99999999999999999999",
        "99999999999999999999 is not"
    )]
    fn impossible_users(#[case] run_as: RunAs, #[case] image: &str, #[case] message: &str) {
        let error = resolve(&run_as, image, Some(PASSWD), Some(GROUP)).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }

    #[test]
    fn an_image_from_scratch_has_ids_and_root() {
        for image in ["", "root", "0", "root:root"] {
            let user = resolve(&RunAs::default(), image, None, None).unwrap();
            assert_eq!((user.uid, user.gid), (0, 0), "{image}");
        }
        assert!(resolve(&RunAs::default(), "nobody", None, None).is_err());
    }
}
