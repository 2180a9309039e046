//! Tagged fields: writing them one after another, reading them in any order.

use crate::WireError;

/// Bytes of a field before its value.
const FIELD_HEADER_BYTES: usize = 5;

/// Appends fields to a message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn bytes(&mut self, tag: u8, value: &[u8]) -> &mut Self {
        // A value beyond 4 GiB cannot be framed anyway; the frame's own bound reports it.
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    pub(crate) fn number(&mut self, tag: u8, value: u64) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    pub(crate) fn signed(&mut self, tag: u8, value: i64) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    /// Nothing for `false`: an absent flag reads as `false`.
    pub(crate) fn flag(&mut self, tag: u8, value: bool) -> &mut Self {
        if value { self.number(tag, 1) } else { self }
    }

    pub(crate) fn optional(&mut self, tag: u8, value: Option<&[u8]>) -> &mut Self {
        match value {
            Some(value) => self.bytes(tag, value),
            None => self,
        }
    }

    pub(crate) fn list(&mut self, tag: u8, values: &[Vec<u8>]) -> &mut Self {
        for value in values {
            self.bytes(tag, value);
        }
        self
    }

    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// One field as it stands in a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
}

impl Field<'_> {
    pub(crate) fn number(self) -> Result<u64, WireError> {
        let bytes = self
            .value
            .try_into()
            .map_err(|_| WireError::Field(self.tag))?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn signed(self) -> Result<i64, WireError> {
        self.number().map(u64::cast_signed)
    }

    pub(crate) fn narrow<T: TryFrom<u64>>(self) -> Result<T, WireError> {
        T::try_from(self.number()?).map_err(|_| WireError::Field(self.tag))
    }

    pub(crate) fn narrow_signed(self) -> Result<i32, WireError> {
        i32::try_from(self.signed()?).map_err(|_| WireError::Field(self.tag))
    }

    pub(crate) fn flag(self) -> Result<bool, WireError> {
        Ok(self.number()? != 0)
    }

    pub(crate) fn owned(self) -> Vec<u8> {
        self.value.to_vec()
    }

    pub(crate) fn text(self) -> Result<String, WireError> {
        String::from_utf8(self.owned()).map_err(|_| WireError::Field(self.tag))
    }
}

/// Iterates the fields of a message; ends after the first error.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self) -> Option<Field<'a>> {
        let header = self.rest.get(..FIELD_HEADER_BYTES)?;
        let length = u32::from_le_bytes(header.get(1..)?.try_into().ok()?);
        let end = FIELD_HEADER_BYTES.checked_add(usize::try_from(length).ok()?)?;
        let value = self.rest.get(FIELD_HEADER_BYTES..end)?;
        let tag = *header.first()?;
        self.rest = self.rest.get(end..)?;
        Some(Field { tag, value })
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.take();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or(WireError::Truncated))
    }
}
