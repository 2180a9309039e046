//! `Debug` for messages that carry secrets: it says what is set, never the value.
//!
//! Messages that contain one of these derive their `Debug`, and so redact too.

use std::fmt;

use crate::cri::{AuthConfig, KeyValue};

/// Stands for a value that must not be shown.
struct Redacted {
    set: bool,
}

impl Redacted {
    fn of(value: &str) -> Self {
        Self {
            set: !value.is_empty(),
        }
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.set { "[redacted]" } else { "[empty]" })
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &Redacted::of(&self.username))
            .field("password", &Redacted::of(&self.password))
            .field("auth", &Redacted::of(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &Redacted::of(&self.identity_token))
            .field("registry_token", &Redacted::of(&self.registry_token))
            .finish()
    }
}

// Environment variables are where Kubernetes puts the values of Secret objects.
impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key)
            .field(
                "value",
                &Redacted {
                    set: !self.value.is_empty(),
                },
            )
            .finish()
    }
}
