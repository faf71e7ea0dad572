//! How far the loading of a model is, and how long its parts took.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How far the weights are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes that were read, hashed and packed.
    pub done: u64,
    /// Bytes of all files of weights; 0 until their headers were parsed.
    pub total: u64,
}

/// How long threads worked on the files of weights. The parts overlap, and several threads may work on each, so they add up
/// to more than the time that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadTimes {
    /// In calls that read files.
    pub read: Duration,
    /// In SHA-256.
    pub hash: Duration,
    /// Converting, quantizing and packing, on all threads of the pool together: the time of the thread that hands out the work.
    pub repack: Duration,
}

/// A part of [`LoadTimes`].
#[derive(Clone, Copy)]
pub(in crate::model) enum Part {
    Read,
    Hash,
    Repack,
}

/// Counts while a model is loaded.
#[derive(Debug, Default)]
pub(in crate::model) struct Meter {
    done: AtomicU64,
    total: AtomicU64,
    /// Nanoseconds of each [`Part`].
    times: [AtomicU64; 3],
    /// Bytes that were read of any file, by any reader.
    read: AtomicU64,
}

/// A reader whose bytes are counted.
pub(super) struct Counted<R> {
    inner: R,
    meter: Arc<Meter>,
}

impl Meter {
    /// Begins to count `total` bytes.
    pub(in crate::model) fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.times.iter().for_each(|time| time.store(0, Ordering::Relaxed));
    }

    /// Counts `bytes` more as done.
    pub(in crate::model) fn advance(&self, bytes: usize) {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The result of `work`, whose time counts for `part`.
    pub(in crate::model) fn time<T>(&self, part: Part, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        let nanoseconds = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Some(time) = self.times.get(part as usize) {
            time.fetch_add(nanoseconds, Ordering::Relaxed);
        }
        result
    }

    pub(in crate::model) fn progress(&self) -> LoadProgress {
        // What is done is read first, so that it is never more than the total.
        let done = self.done.load(Ordering::Relaxed);
        LoadProgress { done, total: self.total.load(Ordering::Relaxed) }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(in crate::model) fn times(&self) -> LoadTimes {
        let [read, hash, repack] =
            self.times.each_ref().map(|time| Duration::from_nanos(time.load(Ordering::Relaxed)));
        LoadTimes { read, hash, repack }
    }
}

impl<R> Counted<R> {
    /// `inner`, whose bytes `meter` counts.
    pub(super) fn new(inner: R, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.meter.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
