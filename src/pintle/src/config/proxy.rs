//! The address of a proxy, whose password is not shown: neither when the configuration is printed nor in an error.

use super::{
    error::Problem,
    node::{Node, Value},
    scalars::quoted,
    setting::{Scalar, Setting, Shown},
};

/// Which HTTP proxy to use. Shown without user and password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProxyAddress(pub(crate) image::ProxySetting);

impl Scalar for ProxyAddress {
    const EXPECTED: &'static str =
        "`environment`, `none` or the URL of an HTTP proxy, such as `http://proxy.example:3128`";

    fn from_value(value: &Value) -> Option<Self> {
        let Value::Text(text) = value else {
            return None;
        };
        Some(Self(match text.as_str() {
            "environment" => image::ProxySetting::Environment,
            "none" => image::ProxySetting::Direct,
            url => image::ProxySetting::Through(image::ProxyUrl::parse(url)?),
        }))
    }

    fn to_yaml(&self) -> String {
        match &self.0 {
            image::ProxySetting::Environment => "environment".to_owned(),
            image::ProxySetting::Direct => "none".to_owned(),
            image::ProxySetting::Through(url) => quoted(&url.to_string()),
        }
    }
}

impl Setting for ProxyAddress {
    /// As other scalars, but what is wrong is not repeated: it may hold a password.
    fn read(self, node: Node, key: &str, problems: &mut Vec<Problem>) -> Self {
        if matches!(node.value, Value::Null) {
            return self;
        }
        Self::from_value(&node.value).unwrap_or_else(|| {
            problems.push(Problem::WrongValue {
                key: key.to_owned(),
                at: node.at,
                expected: Self::EXPECTED.to_owned(),
                found: "something else".to_owned(),
            });
            self
        })
    }

    fn shown(&self) -> Shown {
        Shown::Scalar(self.to_yaml())
    }
}
