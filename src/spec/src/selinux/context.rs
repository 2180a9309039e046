//! Security contexts as text.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest part of a context that a request may give. Policies' own have a few dozen bytes.
const PART_MAX_BYTES: usize = 256;

/// A security context: user, role, type and, where the policy has levels, a level.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[expect(missing_docs, reason = "the four parts are SELinux's own words")]
pub struct Context {
    pub user: String,
    pub role: String,
    pub kind: String,
    /// Empty where the policy has no levels.
    pub level: String,
}

/// A text that is no security context.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no SELinux context: it takes user:role:type or user:role:type:level")]
pub struct BadContext(String);

impl FromStr for Context {
    type Err = BadContext;

    fn from_str(text: &str) -> Result<Self, BadContext> {
        let bad = || BadContext(text.chars().take(PART_MAX_BYTES).collect());
        let mut parts = text.splitn(4, ':');
        let mut next = || {
            let part = parts.next().filter(|part| is_name(part));
            part.map(str::to_owned).ok_or_else(bad)
        };
        let (user, role, kind) = (next()?, next()?, next()?);
        let level = parts.next().unwrap_or_default().to_owned();
        if text.ends_with(':') || level.contains('\0') {
            return Err(bad());
        }
        Ok(Self {
            user,
            role,
            kind,
            level,
        })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user,
            role,
            kind,
            level,
        } = self;
        write!(formatter, "{user}:{role}:{kind}")?;
        if level.is_empty() {
            return Ok(());
        }
        write!(formatter, ":{level}")
    }
}

impl TryFrom<String> for Context {
    type Error = BadContext;

    fn try_from(text: String) -> Result<Self, BadContext> {
        text.parse()
    }
}

impl From<Context> for String {
    fn from(context: Context) -> Self {
        context.to_string()
    }
}

/// Whether a text can be the name of a user, a role or a type: whether a policy has it, only the kernel knows.
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !text.is_empty() && text.len() <= PART_MAX_BYTES && text.bytes().all(fits)
}

#[cfg(test)]
mod test {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("system_u:system_r:container_t:s0:c1,c2", "s0:c1,c2")]
    #[case("system_u:system_r:container_t:s0", "s0")]
    #[case("system_u:system_r:container_t", "")]
    #[case("a:b:c:s0-s0:c0.c1023", "s0-s0:c0.c1023")]
    fn contexts_read_back_as_they_were(#[case] text: &str, #[case] level: &str) {
        let context: Result<Context, _> = text.parse();
        let context = context.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(context.level, level);
        assert_eq!(context.to_string(), text);
    }

    #[rstest]
    #[case("")]
    #[case("a:b")]
    #[case("a::c")]
    #[case("a:b:c:")]
    #[case("a b:c:d:s0")]
    #[case("a:b:c\0:s0")]
    fn what_is_no_context(#[case] text: &str) {
        assert!(text.parse::<Context>().is_err(), "{text:?}");
    }
}
