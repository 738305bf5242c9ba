//! The packs being filled: a few, shared by all encoding threads, under one byte budget.
//!
//! A frame counts against the budget from before it is appended until its pack has been stored. So memory depends
//! neither on the number of threads nor on the size of a pack, and threads wait when the repository is slower than they.
//!
//! Why nobody waits forever: whoever waits for an open pack waits for a thread that is appending to it, which waits for
//! nobody. The open packs alone never exhaust the budget ([`Pool::new`] sees to it), so whoever waits for the budget
//! waits for a pack to be stored, or for storing to fail, which gives the budget back too.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::worker::FinishedPack;
use crate::base::{Error, Result};
use crate::codec::encrypt::Seal;
use crate::codec::frame::{FRAME_RAW_BYTES, Frame};
use crate::repo::pack::PackBuilder;

/// Bytes of frames in all packs that are being filled or stored. What encryption adds, a part in 4,096, is not counted.
pub(in crate::engine) const BUDGET_BYTES: u64 = 96 << 20;
/// Packs filled at one time, at most: one is enough for the order of things, a second lets two threads encrypt.
const MOST_OPEN: u64 = 2;
/// What a full pack may hold beyond its size: the frame that filled it, which may have grown a little by compression.
const LAST_FRAME_BYTES: u64 = FRAME_RAW_BYTES as u64 + (4 << 10);

/// The open packs of one copy.
pub(in crate::engine) struct Pool {
    seal: Seal,
    pack_bytes: u64,
    most_open: usize,
    numbers: Arc<PackNumbers>,
    budget: Arc<Budget>,
    packs: mpsc::Sender<FinishedPack>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Open packs that no thread is appending to; the last is taken first, so that packs do not all fill up at once.
    free: Vec<OpenPack>,
    /// Open packs, whether free or not.
    open: usize,
}

/// Numbers for packs: each given once, in the end without gaps.
pub(in crate::engine) struct PackNumbers(Mutex<Numbers>);

struct Numbers {
    /// Left out below `next`, the smallest last.
    holes: Vec<u32>,
    next: u32,
}

impl PackNumbers {
    /// The numbers that are not in `taken`, from 1 on.
    pub fn beside(taken: impl Iterator<Item = u32>) -> Self {
        let taken: BTreeSet<u32> = taken.collect();
        let last = taken.last().copied().unwrap_or(0);
        let holes = (1..last).rev().filter(|number| !taken.contains(number)).collect();
        Self(Mutex::new(Numbers { holes, next: last + 1 }))
    }

    fn take(&self) -> u32 {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.holes.pop().unwrap_or_else(|| {
            numbers.next += 1;
            numbers.next - 1
        })
    }

    fn take_hole(&self) -> Option<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).holes.pop()
    }
}

struct OpenPack {
    number: u32,
    builder: PackBuilder,
    reserved: Reserved,
}

impl Pool {
    /// A pool that hands packs of `pack_bytes` of frames to `packs`, with `numbers`.
    pub fn new(
        seal: Seal,
        pack_bytes: u64,
        budget_bytes: u64,
        numbers: Arc<PackNumbers>,
        packs: mpsc::Sender<FinishedPack>,
    ) -> Self {
        let most_open = (budget_bytes / (pack_bytes + LAST_FRAME_BYTES)).min(MOST_OPEN);
        assert!(most_open > 0, "a pack of {pack_bytes} bytes does not fit into a budget of {budget_bytes}");
        Self {
            seal,
            pack_bytes,
            most_open: most_open as usize,
            budget: Arc::new(Budget { limit_bytes: budget_bytes, ..Budget::default() }),
            packs,
            numbers,
            state: Mutex::new(State { free: Vec::new(), open: 0 }),
            changed: Condvar::new(),
        }
    }

    /// Appends a frame to any open pack: gives the pack's number and the frame's offset in it. Waits while all are in
    /// use or the budget is spent; a pack that is full then is handed over.
    ///
    /// # Errors
    /// Interrupted when packs are no longer stored or another thread failed here: that error is the one that counts.
    pub fn append(&self, frame: &Frame) -> Result<(u32, u64)> {
        let reserved = self.budget.reserve(frame.stored.len() as u64, || self.packs.is_closed())?;
        let mut taken = self.take(reserved)?;
        let pack = taken.pack.as_mut().expect("taken just now");
        let offset = pack.builder.add(frame).map_err(|error| Error::failed("cannot encode a frame").caused_by(error))?;
        let at = (pack.number, offset);
        if pack.builder.plain_bytes() >= self.pack_bytes {
            taken.finish()?;
        } else {
            taken.put_back();
        }
        Ok(at)
    }

    /// Hands over the packs that are not full. For when all threads have appended their last frame.
    ///
    /// # Errors
    /// As [`Pool::append`].
    pub fn finish(&self) -> Result<()> {
        loop {
            let Some(pack) = self.state().free.pop() else { return Ok(()) };
            Taken { pool: self, pack: Some(pack) }.finish()?;
        }
    }

    /// Hands over empty packs for the numbers that an interrupted run left out. After everything else.
    ///
    /// # Errors
    /// As [`Pool::append`].
    pub fn fill_holes(&self) -> Result<()> {
        while let Some(number) = self.numbers.take_hole() {
            let builder = PackBuilder::new(&self.seal, 0);
            let builder = builder.map_err(|error| Error::failed("cannot start a pack").caused_by(error))?;
            let reserved = self.budget.reserve(0, || self.packs.is_closed())?;
            self.state().open += 1;
            Taken { pool: self, pack: Some(OpenPack { number, builder, reserved }) }.finish()?;
        }
        Ok(())
    }

    /// Takes a free pack, opens one, or waits for one.
    fn take(&self, reserved: Reserved) -> Result<Taken<'_>> {
        let mut state = self.state();
        loop {
            if self.budget.is_closed() {
                return Err(Error::interrupted());
            }
            if let Some(mut pack) = state.free.pop() {
                pack.reserved.absorb(reserved);
                return Ok(Taken { pool: self, pack: Some(pack) });
            }
            if state.open < self.most_open {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let capacity_bytes = usize::try_from(self.pack_bytes + LAST_FRAME_BYTES).unwrap_or(usize::MAX);
        let builder = PackBuilder::new(&self.seal, capacity_bytes);
        let builder = builder.map_err(|error| Error::failed("cannot start a pack").caused_by(error))?;
        let number = self.numbers.take();
        state.open += 1;
        Ok(Taken { pool: self, pack: Some(OpenPack { number, builder, reserved }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Consistent after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pack that one thread appends to. Lost with it, should the thread fail: then nobody may wait for it.
struct Taken<'a> {
    pool: &'a Pool,
    pack: Option<OpenPack>,
}

impl Taken<'_> {
    fn put_back(mut self) {
        self.pool.state().free.extend(self.pack.take());
        self.pool.changed.notify_all();
    }

    fn finish(mut self) -> Result<()> {
        let Some(OpenPack { number, builder, reserved }) = self.pack.take() else { return Ok(()) };
        self.pool.state().open -= 1;
        self.pool.changed.notify_all();
        let finished = builder.finish().map_err(|error| {
            self.pool.close();
            Error::failed("cannot finish a pack").caused_by(error)
        });
        let (stored, sha256) = finished?;
        let pack = FinishedPack { number, stored, sha256, reserved };
        // A closed channel means that storing failed; that error is the one reported.
        self.pool.packs.blocking_send(pack).map_err(|_| Error::interrupted())
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.pack.is_some() {
            self.pool.close();
        }
    }
}

impl Pool {
    /// Lets nobody wait any longer.
    fn close(&self) {
        self.budget.close();
        drop(self.state());
        self.changed.notify_all();
    }
}

/// Bytes that may be in memory at one time.
#[derive(Default)]
struct Budget {
    limit_bytes: u64,
    held_bytes: Mutex<u64>,
    released: Condvar,
    closed: AtomicBool,
}

impl Budget {
    /// Waits until `bytes` fit into the budget.
    fn reserve(self: &Arc<Self>, bytes: u64, in_vain: impl Fn() -> bool) -> Result<Reserved> {
        let mut held_bytes = self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *held_bytes + bytes > self.limit_bytes && !self.is_closed() && !in_vain() {
            held_bytes = self.released.wait(held_bytes).unwrap_or_else(PoisonError::into_inner);
        }
        if self.is_closed() || in_vain() {
            return Err(Error::interrupted());
        }
        *held_bytes += bytes;
        Ok(Reserved { budget: Arc::clone(self), bytes })
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn close(&self) {
        // Under the lock: a thread that is about to wait has not looked yet, or hears it.
        let held_bytes = self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        drop(held_bytes);
        self.released.notify_all();
    }
}

/// Bytes of the budget, held until this is dropped.
pub(in crate::engine) struct Reserved {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reserved {
    fn absorb(&mut self, mut other: Reserved) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        *self.budget.held_bytes.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.released.notify_all();
    }
}

#[cfg(test)]
mod tests;
