//! Addresses as numbers: IPv4 and IPv6; and how numbers stand in bytes.

use crate::pattern::mapped;
use crate::table::LIST;

/// An address as a number.
pub(crate) trait Key: Copy + Ord + Default + std::fmt::Debug {
    const BITS: u32;
    const MAX: Self;
    /// Bits below [`Key::head`].
    const TAIL: u32;
    /// A power of two that is above all differences of keys in one block, and below those that
    /// wrapped around: an entry with it reaches up to the next one.
    const OPEN: u32;

    /// The first bits, as many as one register holds.
    fn head(self) -> u64;
    /// A slot's value and its key, which has the slot's own width: bytes beyond are the next slot's.
    fn slot(bytes: &[u8]) -> Option<(u32, Self)>;
    /// From the first bytes, little end first; zero when there are too few.
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut Vec<u8>);
    fn wide(self) -> u128;
    /// The low eight bits.
    fn low(self) -> u8;
    /// The low bits of `wide`.
    fn narrow(wide: u128) -> Self;
    /// `self - other`, modulo the width.
    fn minus(self, other: Self) -> Self;
    /// `self >> shift`, for a shift below the width.
    fn shifted(self, shift: u32) -> Self;
    fn masked(self, mask: Self) -> Self;
    /// True when `self < 2^power`, for a power below the width.
    fn is_below(self, power: u32) -> bool;

    /// True when nobody asks for an address from `first` to `last`: an IPv4-mapped one is judged as IPv4.
    fn is_unasked(first: Self, last: Self) -> bool {
        Self::BITS == 128 && [first, last].iter().all(|key| mapped(key.wide()).is_some())
    }

    fn next(self) -> Option<Self> {
        (self < Self::MAX).then(|| Self::narrow(self.wide() + 1))
    }
}

macro_rules! key {
    ($type:ty, $tail:expr, $head:path) => {
        impl Key for $type {
            const BITS: u32 = <$type>::BITS;
            const MAX: Self = <$type>::MAX;
            const TAIL: u32 = $tail;
            const OPEN: u32 = if Self::BITS < LIST { Self::BITS } else { LIST } - 1;

            #[inline]
            fn head(self) -> u64 {
                $head(self)
            }

            #[inline]
            fn slot(bytes: &[u8]) -> Option<(u32, Self)> {
                let (value, key) = bytes
                    .first_chunk::<{ 4 + size_of::<$type>() }>()?
                    .split_first_chunk()?;
                Some((u32::from_le_bytes(*value), Self::read(key)))
            }

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
            fn low(self) -> u8 {
                let [low, ..] = self.to_le_bytes();
                low
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
            fn shifted(self, shift: u32) -> Self {
                self.wrapping_shr(shift)
            }

            #[inline]
            fn masked(self, mask: Self) -> Self {
                self & mask
            }

            #[inline]
            fn is_below(self, power: u32) -> bool {
                self.wrapping_shr(power) == 0
            }
        }
    };
}

key!(u32, 0, u64::from);
key!(u64, 0, std::convert::identity);
key!(u128, 64, upper_half);

#[inline]
fn upper_half(key: u128) -> u64 {
    u64::try_from(key >> 64).unwrap_or(u64::MAX)
}
