//! Walks one HPACK header block (RFC 7541) and makes the value of `:authority` a valid one, in place.
//!
//! Only literals are looked at: an indexed field repeats a value that has passed here as a literal before. The walk
//! keeps no dynamic table, since a replacement never changes the decoded length of a value, so that the tables at both
//! ends evict alike.

/// The name as a raw string.
const AUTHORITY: &[u8] = b":authority";
/// Index of `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;

/// Mends every `:authority` literal of `block`. `None`: not HPACK, or not mendable; what follows is left as it is.
pub(super) fn mend(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        if first & 0x80 != 0 {
            integer(block, &mut at, 7)?; // indexed field
        } else if first & 0xe0 == 0x20 {
            integer(block, &mut at, 5)?; // dynamic table size update
        } else {
            // A literal: 01 is remembered in the dynamic table, 0000 and 0001 are not.
            let prefix_bits = if first & 0x40 != 0 { 6 } else { 4 };
            let index = integer(block, &mut at, prefix_bits)?;
            let named = if index == 0 {
                let name = Text::read(block, &mut at)?;
                name.equals(block, AUTHORITY)
            } else {
                index == AUTHORITY_INDEX
            };
            let value = Text::read(block, &mut at)?;
            if named {
                value.mend(block)?;
            }
        }
    }
    Some(())
}

/// Reads an integer whose first byte holds `prefix_bits` of it, and moves `at` behind it.
fn integer(block: &[u8], at: &mut usize, prefix_bits: u32) -> Option<usize> {
    let mask = (1usize << prefix_bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & mask;
    *at += 1;
    if value < mask {
        return Some(value);
    }
    // Four more bytes hold 28 bits: far beyond the largest block that gets here.
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Where a string literal stands in the block.
#[derive(Clone, Copy)]
struct Text {
    start: usize,
    end: usize,
    huffman: bool,
}

impl Text {
    fn read(block: &[u8], at: &mut usize) -> Option<Self> {
        let huffman = block.get(*at)? & 0x80 != 0;
        let len = integer(block, at, 7)?;
        let start = *at;
        let end = start.checked_add(len).filter(|end| *end <= block.len())?;
        *at = end;
        Some(Self {
            start,
            end,
            huffman,
        })
    }

    fn equals(self, block: &[u8], wanted: &[u8]) -> bool {
        let bytes = &block[self.start..self.end];
        if self.huffman {
            huffman::decode(bytes)
                .is_some_and(|symbols| symbols.iter().map(|s| s.byte).eq(wanted.iter().copied()))
        } else {
            bytes == wanted
        }
    }

    /// Replaces what an authority cannot hold, unless the value is a valid authority already.
    fn mend(self, block: &mut [u8]) -> Option<()> {
        let bytes = &mut block[self.start..self.end];
        if self.huffman {
            let symbols = huffman::decode(bytes)?;
            let value: Vec<u8> = symbols.iter().map(|s| s.byte).collect();
            if !is_authority(&value) {
                for symbol in symbols.iter().filter(|s| !is_plain(s.byte)) {
                    huffman::replace(bytes, symbol)?;
                }
            }
        } else if !is_authority(bytes) {
            for byte in bytes.iter_mut().filter(|byte| !is_plain(**byte)) {
                *byte = b'-';
            }
        }
        Some(())
    }
}

/// What h2 asks of the value.
fn is_authority(value: &[u8]) -> bool {
    http::uri::Authority::try_from(value).is_ok()
}

/// Bytes that any authority may hold anywhere.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The static Huffman code of RFC 7541, appendix B, as far as printable text needs it.
mod huffman {
    /// The code is canonical: for each length in bits, its symbols in the order of their codes.
    const SYMBOLS: [(u32, &[u8]); 10] = [
        (5, b"012aceiost"),
        (6, b" %-./3456789=A_bdfghlmnpru"),
        (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
        (8, b"&*,;XZ"),
        (10, b"!\"()?"),
        (11, b"'+|"),
        (12, b"#>"),
        (13, b"\0$@[]~"),
        (14, b"^}"),
        (15, b"<`{"),
    ];
    /// Longest code of the table, in bits.
    const MAX_BITS: u32 = 15;

    /// One decoded symbol.
    pub(super) struct Symbol {
        pub(super) byte: u8,
        /// Position of its first bit.
        bit: usize,
        /// Length of its code.
        bits: u32,
    }

    /// First code of the given length, and the symbols of that length.
    fn codes_of(bits: u32) -> (u32, &'static [u8]) {
        let mut code = 0;
        let mut length = 0;
        for (next, symbols) in SYMBOLS {
            code <<= next - length;
            if next == bits {
                return (code, symbols);
            }
            code += u32::try_from(symbols.len()).unwrap_or(u32::MAX);
            length = next;
        }
        (u32::MAX, &[])
    }

    fn bit_at(bytes: &[u8], bit: usize) -> Option<u32> {
        let byte = u32::from(*bytes.get(bit / 8)?);
        Some(byte >> (7 - bit % 8) & 1)
    }

    /// Decodes a string. `None`: it holds a rarer symbol than the table has, or is not well-formed.
    pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Symbol>> {
        let mut symbols = Vec::with_capacity(bytes.len() * 8 / 5);
        let mut start = 0;
        loop {
            let mut code = 0;
            let mut bits = 0;
            let byte = loop {
                let Some(next) = bit_at(bytes, start + bits as usize) else {
                    // The end: fewer than eight bits, all of them ones, fill the last byte.
                    let padding = bits < 8 && code == (1 << bits) - 1;
                    return padding.then_some(symbols);
                };
                code = code << 1 | next;
                bits += 1;
                let (first, of_length) = codes_of(bits);
                let offset = code
                    .checked_sub(first)
                    .and_then(|o| usize::try_from(o).ok());
                if let Some(byte) = offset.and_then(|o| of_length.get(o)) {
                    break *byte;
                }
                if bits == MAX_BITS {
                    return None;
                }
            };
            symbols.push(Symbol {
                byte,
                bit: start,
                bits,
            });
            start += bits as usize;
        }
    }

    /// Overwrites a symbol by a plain one whose code is as long. `None`: there is none.
    pub(super) fn replace(bytes: &mut [u8], symbol: &Symbol) -> Option<()> {
        let plain = match symbol.bits {
            6 => b'-',
            7 => b'q',
            8 => b'X',
            13 => b'~',
            _ => return None,
        };
        let (first, of_length) = codes_of(symbol.bits);
        let offset = of_length.iter().position(|byte| *byte == plain)?;
        let code = first + u32::try_from(offset).ok()?;
        for i in 0..symbol.bits {
            let bit = symbol.bit + i as usize;
            let mask = 0x80u8 >> (bit % 8);
            let byte = bytes.get_mut(bit / 8)?;
            if code >> (symbol.bits - 1 - i) & 1 == 1 {
                *byte |= mask;
            } else {
                *byte &= !mask;
            }
        }
        Some(())
    }

    #[cfg(test)]
    pub(super) fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in text {
            for (length, symbols) in SYMBOLS {
                if let Some(offset) = symbols.iter().position(|s| s == byte) {
                    let code = codes_of(length).0 as usize + offset;
                    bits.extend((0..length).rev().map(|i| code >> i & 1 == 1));
                }
            }
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8)
            .map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn text(bytes: &[u8], huffman: bool) -> Vec<u8> {
        let bytes = if huffman {
            huffman::encode(bytes)
        } else {
            bytes.to_vec()
        };
        let mut out = vec![u8::from(huffman) << 7 | u8::try_from(bytes.len()).unwrap()];
        out.extend(bytes);
        out
    }

    #[test]
    fn the_code_is_that_of_the_rfc() {
        // RFC 7541, C.4.1 and C.6.1.
        assert_eq!(
            huffman::encode(b"www.example.com"),
            [
                0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff
            ]
        );
        assert_eq!(
            huffman::encode(b"Mon, 21 Oct 2013 20:13:21 GMT"),
            [
                0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b,
                0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff
            ]
        );
    }

    #[rstest]
    #[case::percent_encoded("%2Frun%2Fpintle.sock", "-2Frun-2Fpintle.sock", "-2Frun-2Fpintle.sock")]
    #[case::path(
        "/run/pintle/pintle.sock",
        "-run-pintle-pintle.sock",
        "-run-pintle-pintle.sock"
    )]
    #[case::with_scheme("unix:/run/p.sock", "unix--run-p.sock", "unixq-run-p.sock")]
    #[case::valid("localhost:1234", "localhost:1234", "localhost:1234")]
    #[case::ipv6("[::1]:80", "[::1]:80", "[::1]:80")]
    #[case::spaces("a b*@/", "a-b---", "a-bX~-")]
    #[case::empty("", "", "")]
    fn values_become_authorities(
        #[case] value: &str,
        #[case] raw: &str,
        #[case] coded: &str,
        #[values(0x41, 0x01, 0x11, 0x40, 0x00)] kind: u8,
    ) {
        for (huffman, wanted) in [(false, raw), (true, coded)] {
            let block = |value: &str| {
                let mut block = vec![0x82, 0x86, 0x3f, 0xe1, 0x1f, kind];
                if matches!(kind, 0x40 | 0x00) {
                    block.extend(text(AUTHORITY, huffman));
                }
                block.extend(text(value.as_bytes(), huffman));
                // Another field with the same bytes stays.
                block.push(0x44);
                block.extend(text(b"/a%2Fb", huffman));
                block
            };
            let mut found = block(value);
            mend(&mut found).unwrap();
            assert_eq!(found, block(wanted));
            if !value.is_empty() {
                assert!(is_authority(wanted.as_bytes()));
            }
        }
    }

    #[test]
    fn a_symbol_without_an_equal_leaves_the_block_as_it_can() {
        let mut block = vec![0x41];
        block.extend(text(b"a#b", true));
        let before = block.clone();
        assert_eq!(mend(&mut block), None);
        assert_eq!(block, before);
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(mut block: Vec<u8>) {
            let before = block.len();
            let _ = mend(&mut block);
            prop_assert_eq!(block.len(), before);
        }

        #[test]
        fn coded_text_decodes(value in "[ -\\[\\]-~]{0,60}") {
            let coded = huffman::encode(value.as_bytes());
            let symbols = huffman::decode(&coded).unwrap();
            prop_assert_eq!(symbols.iter().map(|s| s.byte).collect::<Vec<_>>(), value.as_bytes());
        }
    }
}
