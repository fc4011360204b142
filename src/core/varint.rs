//! Numbers in few bytes, for what ten thousand machines each keep hundreds of: seven bits a byte, the lowest first; the
//! highest bit says that more follow.

/// Writes a number.
pub(crate) fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// Writes a number that may be negative; one near zero takes one byte.
pub(crate) fn put_signed(bytes: &mut Vec<u8>, value: i64) {
    put(bytes, (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned());
}

/// Reads what was written, from the front.
#[derive(Debug)]
pub(crate) struct Read<'a>(pub(crate) &'a [u8]);

impl Read<'_> {
    /// A byte.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number.
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A number that may be negative.
    pub(crate) fn signed(&mut self) -> Option<i64> {
        self.number().map(|value| (value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }
}
