//! Properties of units, in the types that they have on the bus.

use zbus::Variant;

/// One property and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// systemd's name of it on the bus, such as `MemoryMax`.
    pub name: &'static str,
    /// Its value.
    pub value: PropertyValue,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyValue {
    /// Yes or no.
    Bool(bool),
    /// A number; [`u64::MAX`] is systemd's infinity.
    Number(u64),
    /// Words.
    Text(String),
    /// Numbers of processes.
    Pids(Vec<u32>),
    /// A set of CPUs or memory nodes: bit n of byte n/8.
    Bits(Vec<u8>),
}

impl Property {
    /// Yes or no.
    #[must_use]
    pub fn flag(name: &'static str, value: bool) -> Self {
        Self {
            name,
            value: PropertyValue::Bool(value),
        }
    }

    /// A number.
    #[must_use]
    pub fn number(name: &'static str, value: u64) -> Self {
        Self {
            name,
            value: PropertyValue::Number(value),
        }
    }

    /// Words.
    #[must_use]
    pub fn text(name: &'static str, value: impl Into<String>) -> Self {
        Self {
            name,
            value: PropertyValue::Text(value.into()),
        }
    }

    pub(crate) fn pair(&self) -> (&'static str, Variant<'_>) {
        let value = match &self.value {
            PropertyValue::Bool(value) => Variant::from(*value),
            PropertyValue::Number(value) => Variant::from(*value),
            PropertyValue::Text(value) => Variant::from(value.as_str()),
            PropertyValue::Pids(value) => Variant::from(value),
            PropertyValue::Bits(value) => Variant::from(value),
        };
        (self.name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_types_that_systemd_reads() {
        for (value, signature) in [
            (PropertyValue::Bool(true), "b"),
            (PropertyValue::Number(u64::MAX), "t"),
            (PropertyValue::Text("x".to_owned()), "s"),
            (PropertyValue::Pids(vec![1]), "au"),
            (PropertyValue::Bits(vec![3]), "ay"),
        ] {
            let property = Property { name: "X", value };
            assert_eq!(
                property.pair().1.value_signature().to_string(),
                signature,
                "{property:?}"
            );
        }
    }
}
