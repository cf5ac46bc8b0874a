//! The three widths of keys: IPv4, the first half of IPv6, all of IPv6.

/// An address as a number.
pub(crate) trait Key: Copy + Ord + Default + std::fmt::Debug {
    /// Bytes of a key.
    const BYTES: usize;
    /// Bytes of a table entry: a key and a value.
    const ENTRY: usize = Self::BYTES + 4;
    const MAX: Self;

    /// From the first bytes, little end first; zero when there are too few.
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut Vec<u8>);
    fn wide(self) -> u128;
    /// The low bits of `wide`.
    fn narrow(wide: u128) -> Self;
    /// `self - other`, modulo the width.
    fn minus(self, other: Self) -> Self;
    /// `min(self >> shift, most)`; 0 where all bits are shifted out.
    fn shifted(self, shift: u32, most: u32) -> u32;
    /// True when `self < 2^power`.
    fn is_below(self, power: u32) -> bool;

    fn next(self) -> Option<Self> {
        (self < Self::MAX).then(|| Self::narrow(self.wide() + 1))
    }
}

macro_rules! key {
    ($type:ty) => {
        impl Key for $type {
            const BYTES: usize = size_of::<$type>();
            const MAX: Self = <$type>::MAX;

            #[inline]
            fn read(bytes: &[u8]) -> Self {
                bytes
                    .first_chunk()
                    .map_or(0, |bytes| Self::from_le_bytes(*bytes))
            }

            fn write(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn wide(self) -> u128 {
                u128::from(self)
            }

            #[inline]
            fn narrow(wide: u128) -> Self {
                Self::try_from(wide & u128::from(Self::MAX)).unwrap_or(Self::MAX)
            }

            #[inline]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            #[inline]
            fn shifted(self, shift: u32, most: u32) -> u32 {
                let shifted = self.checked_shr(shift).unwrap_or(0);
                u32::try_from(shifted).unwrap_or(most).min(most)
            }

            #[inline]
            fn is_below(self, power: u32) -> bool {
                self.checked_shr(power).unwrap_or(0) == 0
            }
        }
    };
}

key!(u32);
key!(u64);
key!(u128);
