//! The three widths of keys: IPv4, the first half of IPv6, all of IPv6.

/// Entries that are searched without a branch.
pub(crate) const LANES: usize = 7;

/// An address as a number.
pub(crate) trait Key: Copy + Ord + Default + std::fmt::Debug {
    /// Bytes of a key.
    const BYTES: usize;
    /// Bytes of a table entry: a key and a value.
    const ENTRY: usize = Self::BYTES + 4;
    const MAX: Self;

    /// How many of the first `own` entries, at most seven, have a key of at most `key`; they are
    /// sorted. `None` when there is no room for eight. Three steps without a branch.
    fn seek(entries: &[u8], own: usize, key: Self) -> Option<usize>;
    /// From the first bytes, little end first; zero when there are too few.
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut Vec<u8>);
    fn wide(self) -> u128;
    /// The low bits of `wide`.
    fn narrow(wide: u128) -> Self;
    /// `self - other`, modulo the width.
    fn minus(self, other: Self) -> Self;
    /// `min(self >> shift, most)`, for a shift below the width.
    fn shifted(self, shift: u32, most: u32) -> u32;
    /// True when `self < 2^power`, for a power below the width.
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
            fn seek(entries: &[u8], own: usize, key: Self) -> Option<usize> {
                let block = entries.first_chunk::<{ (LANES + 1) * Self::ENTRY }>()?;
                let (lanes, _) = block.as_chunks::<{ Self::ENTRY }>();
                let before = |place: usize| {
                    let lane = lanes.get(place % (LANES + 1));
                    let lane = lane.is_some_and(|lane| Self::read(lane) <= key);
                    usize::from((place < own) & lane)
                };
                let mut count = 4 * before(3);
                count += 2 * before(count + 1);
                Some(count + before(count))
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
            fn narrow(wide: u128) -> Self {
                Self::try_from(wide & u128::from(Self::MAX)).unwrap_or(Self::MAX)
            }

            #[inline]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            #[inline]
            fn shifted(self, shift: u32, most: u32) -> u32 {
                let shifted = self.wrapping_shr(shift);
                u32::try_from(shifted).unwrap_or(most).min(most)
            }

            #[inline]
            fn is_below(self, power: u32) -> bool {
                self.wrapping_shr(power) == 0
            }
        }
    };
}

key!(u32);
key!(u64);
key!(u128);
