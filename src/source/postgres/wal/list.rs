//! Lists of numbers inside a record, read where they lie: nothing is copied.

use std::marker::PhantomData;

use super::body::Relation;
use super::bytes::u32_at;

/// An item of fixed size in a [`List`].
pub trait Item: Sized {
    /// Its size in bytes.
    const BYTES: usize;

    /// Reads it from the start of at least so many bytes.
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl Item for u32 {
    const BYTES: usize = 4;

    fn read(bytes: &[u8]) -> Option<Self> {
        u32_at(bytes, 0)
    }
}

impl Item for Relation {
    const BYTES: usize = 12;

    fn read(bytes: &[u8]) -> Option<Self> {
        let (tablespace, database) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?);
        Some(Self { tablespace, database, file_node: u32_at(bytes, 8)? })
    }
}

/// Items of fixed size, one after the other.
#[derive(Debug)]
pub struct List<'a, T> {
    bytes: &'a [u8],
    items: PhantomData<T>,
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<'a, T: Item> List<'a, T> {
    /// No items.
    pub(super) const EMPTY: List<'a, T> = List { bytes: &[], items: PhantomData };

    /// The `count` items at byte `at`, and where they end; `None` when `data` ends before them.
    pub(super) fn at(data: &'a [u8], at: usize, count: u32) -> Option<(Self, usize)> {
        let end = at.checked_add((count as usize).checked_mul(T::BYTES)?)?;
        Some((Self { bytes: data.get(at..end)?, items: PhantomData }, end))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / T::BYTES
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The items, in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        self.bytes.chunks_exact(T::BYTES).filter_map(T::read)
    }
}
