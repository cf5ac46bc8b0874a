//! Where compiled rules are kept.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use memmap2::MmapMut;

/// The bytes of a [`RuleSet`](crate::RuleSet) that was built here; a clone shares them.
///
/// Large ones ask the system for huge pages: a look-up among a million rules then waits for the
/// memory, not for the tables of its pages too, which makes it some three times as fast. Where
/// there are none the bytes lie in ordinary pages.
#[derive(Clone)]
pub struct Memory(Held);

#[derive(Clone)]
enum Held {
    Small(Arc<[u8]>),
    /// The bytes begin at the first border of a huge page.
    Large(Arc<MmapMut>, Range<usize>),
}

const HUGE_PAGE: usize = 2 << 20;
/// Below, the tables of ordinary pages fit the processor's cache of them.
const LARGE: usize = 1 << 20;

impl From<Vec<u8>> for Memory {
    fn from(bytes: Vec<u8>) -> Self {
        let large = if bytes.len() < LARGE {
            None
        } else {
            in_huge_pages(&bytes)
        };
        Self(large.unwrap_or_else(|| Held::Small(bytes.into())))
    }
}

/// `None` where the system gives no such memory.
fn in_huge_pages(bytes: &[u8]) -> Option<Held> {
    let length = bytes.len().checked_next_multiple_of(HUGE_PAGE)?;
    let mut map = MmapMut::map_anon(length.checked_add(HUGE_PAGE)?).ok()?;
    // Refused where the system knows no huge pages: then they are ordinary ones.
    #[cfg(target_os = "linux")]
    let _refused = map.advise(memmap2::Advice::HugePage);
    let start = map.as_ptr().align_offset(HUGE_PAGE);
    let range = start..start.checked_add(bytes.len())?;
    map.get_mut(range.clone())?.copy_from_slice(bytes);
    Some(Held::Large(Arc::new(map), range))
}

impl fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Memory({} bytes)", self.as_ref().len())
    }
}

impl AsRef<[u8]> for Memory {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Held::Small(bytes) => bytes,
            Held::Large(map, range) => map.get(range.clone()).unwrap_or_default(),
        }
    }
}
