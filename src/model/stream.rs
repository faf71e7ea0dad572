//! Every byte of the files of weights, read once: hashed by one thread and packed by others while the next ones are read.
//!
//! A file is read from end to end into a few buffers, which are used again and again, so loading takes little memory beside
//! the weights. Hash and weights are made of the same bytes in the same buffer: a file that is written to meanwhile cannot
//! have the hash of one content and the weights of another.

use std::io;
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope};

use sha2::{Digest as _, Sha256};

use super::files::{Meter, MeterPart, ReadSeek};

/// Buffers for each file that is read, and as many more: one is filled, one hashed, one packed, and others wait.
const BUFFERS: usize = 3;

/// Consecutive bytes of a file.
pub(super) struct Part<T> {
    pub(super) length: usize,
    /// The caller's description of them; none for bytes that are only hashed.
    pub(super) what: Option<T>,
}

/// A file, and its parts from the first byte to the last.
pub(super) struct Job<'a, T> {
    pub(super) file: &'a mut dyn ReadSeek,
    pub(super) parts: Vec<Part<T>>,
}

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum StreamError<E> {
    /// The file with this number cannot be read.
    Read(usize, io::Error),
    /// `consume` failed.
    Consume(E),
}

/// A part that was read. Its buffer is used again once it was hashed and packed.
struct Chunk<'a, T> {
    what: Option<T>,
    bytes: Vec<u8>,
    length: usize,
    buffers: Sender<Vec<u8>>,
    meter: &'a Meter,
}

/// A message to the thread that hashes.
enum ToHash<'a, T> {
    Bytes(Arc<Chunk<'a, T>>),
    /// The file with this number ends here.
    End(usize),
}

type Full<'a, T> = Result<Arc<Chunk<'a, T>>, (usize, io::Error)>;

impl<T> Chunk<'_, T> {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl<T> Drop for Chunk<'_, T> {
    fn drop(&mut self) {
        self.meter.advance(self.length);
        // The receiver is gone once all is read.
        self.buffers.send(std::mem::take(&mut self.bytes)).ok();
    }
}

/// What all threads that read have in common.
struct Shared<'env, I> {
    /// The files that are left, with their numbers.
    jobs: Mutex<I>,
    buffers: Mutex<Receiver<Vec<u8>>>,
    returned: Sender<Vec<u8>>,
    meter: &'env Meter,
}

/// Reads the files of `jobs`, some at a time, and calls `consume` with each part of a file in its order. Returns the SHA-256 of
/// each file if `hash` says so.
///
/// # Errors
/// [`StreamError`]
pub(super) fn stream<T: Send + Sync, E>(
    jobs: Vec<Job<'_, T>>,
    hash: bool,
    meter: &Meter,
    mut consume: impl FnMut(&T, &[u8]) -> Result<(), E>,
) -> Result<Vec<Option<[u8; 32]>>, StreamError<E>> {
    let count = jobs.len();
    let workers = count.min(thread::available_parallelism().map_or(1, NonZero::get));
    let (returned, buffers) = channel();
    for _ in 0..BUFFERS * (workers + 1) {
        returned.send(Vec::new()).ok();
    }
    let jobs = Mutex::new(jobs.into_iter().enumerate());
    let shared = Shared { jobs, buffers: Mutex::new(buffers), returned, meter };
    thread::scope(|scope| {
        let ((full, ready), (finished, hashes)) = (channel(), channel());
        for _ in 0..workers {
            let to_hash = hash.then(|| hasher(scope, meter, finished.clone())).transpose();
            let to_hash = to_hash.map_err(|error| StreamError::Read(0, error))?;
            let (shared, full) = (&shared, full.clone());
            let reader = move || shared.read(to_hash.as_ref(), &full);
            let spawned = thread::Builder::new().name("read".into()).spawn_scoped(scope, reader);
            spawned.map_err(|error| StreamError::Read(0, error))?;
        }
        drop((full, finished));
        // If this loop ends early it drops `ready`, and the threads end with their next part.
        for chunk in ready {
            let chunk: Arc<Chunk<'_, T>> =
                chunk.map_err(|(number, error)| StreamError::Read(number, error))?;
            if let Some(what) = &chunk.what {
                let packed = meter.time(MeterPart::Repack, || consume(what, chunk.bytes()));
                packed.map_err(StreamError::Consume)?;
            }
        }
        let mut all = vec![None; count];
        for (number, hash) in hashes {
            if let Some(place) = all.get_mut(number) {
                *place = Some(hash);
            }
        }
        Ok(all)
    })
}

impl<'env, 'job, T, I> Shared<'env, I>
where
    I: Iterator<Item = (usize, Job<'job, T>)>,
{
    /// Reads one file after the other until none is left, or until the receiver is gone.
    fn read(&self, to_hash: Option<&Sender<ToHash<'env, T>>>, full: &Sender<Full<'env, T>>) {
        loop {
            let job = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, Job { file, parts })) = job else { return };
            match self.read_file(file, parts, to_hash, full) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return drop(full.send(Err((number, error)))),
            }
            if let Some(to_hash) = to_hash {
                to_hash.send(ToHash::End(number)).ok();
            }
        }
    }

    /// Reads a file. Says whether all of it was taken.
    fn read_file(
        &self,
        file: &mut dyn ReadSeek,
        parts: Vec<Part<T>>,
        to_hash: Option<&Sender<ToHash<'env, T>>>,
        full: &Sender<Full<'env, T>>,
    ) -> io::Result<bool> {
        file.rewind()?;
        for Part { length, what } in parts {
            let taken = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(mut bytes) = taken else { return Ok(false) };
            if bytes.len() < length {
                bytes.resize(length, 0);
            }
            let to = bytes.get_mut(..length).unwrap_or_default();
            self.meter.time(MeterPart::Read, || file.read_exact(to))?;
            let (buffers, meter, consumed) = (self.returned.clone(), self.meter, what.is_some());
            let chunk = Arc::new(Chunk { what, bytes, length, buffers, meter });
            let hashed =
                to_hash.is_none_or(|to_hash| to_hash.send(ToHash::Bytes(Arc::clone(&chunk))).is_ok());
            if !hashed || consumed && full.send(Ok(chunk)).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Starts a thread that hashes the parts of one file after the other.
fn hasher<'scope, 'env: 'scope, T: Send + Sync + 'env>(
    scope: &'scope Scope<'scope, '_>,
    meter: &'env Meter,
    finished: Sender<(usize, [u8; 32])>,
) -> io::Result<Sender<ToHash<'env, T>>> {
    let (to_hash, chunks) = channel();
    let hashing = move || {
        let mut hash = Sha256::new();
        for told in chunks {
            match told {
                ToHash::Bytes(chunk) => {
                    let chunk: Arc<Chunk<'_, T>> = chunk;
                    meter.time(MeterPart::Hash, || hash.update(chunk.bytes()));
                }
                ToHash::End(number) => {
                    finished.send((number, std::mem::take(&mut hash).finalize().into())).ok();
                }
            }
        }
    };
    thread::Builder::new().name("hash".into()).spawn_scoped(scope, hashing)?;
    Ok(to_hash)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Parts of these lengths, each named by its file and its number, every third of which is only hashed.
    fn parts(file: usize, lengths: &[usize]) -> Vec<Part<(usize, usize)>> {
        let what = |number: usize| (number % 3 != 2).then_some((file, number));
        lengths.iter().enumerate().map(|(number, &length)| Part { length, what: what(number) }).collect()
    }

    fn content(seed: usize, length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 31 + seed * 7) as u8).collect()
    }

    #[test]
    fn every_part_is_handed_on_in_its_order_and_every_file_has_its_hash() {
        let lengths: [&[usize]; 5] = [&[1, 7, 100_000, 3, 50_000], &[], &[1 << 20; 20], &[5], &[64, 64, 64]];
        let contents: Vec<_> =
            (0..5).map(|seed| content(seed, lengths[seed].iter().sum::<usize>())).collect();
        for hash in [true, false] {
            let mut files: Vec<_> = contents.iter().map(|content| Cursor::new(content.clone())).collect();
            let jobs = files.iter_mut().zip(lengths).enumerate();
            let jobs = jobs.map(|(number, (file, lengths))| Job { file, parts: parts(number, lengths) });
            let (meter, mut seen) = (Meter::default(), vec![Vec::new(); 5]);
            let hashes = stream(jobs.collect(), hash, &meter, |&(file, number), bytes| {
                seen[file].push((number, bytes.to_vec()));
                Ok::<_, ()>(())
            });
            let expected = contents.iter().map(|content| hash.then(|| Sha256::digest(content).into()));
            assert_eq!(hashes.unwrap(), expected.collect::<Vec<Option<[u8; 32]>>>());
            let total: usize = contents.iter().map(Vec::len).sum();
            assert_eq!(meter.progress().done, total as u64);
            for (file, (content, lengths)) in contents.iter().zip(lengths).enumerate() {
                let (mut at, mut wanted) = (0, Vec::new());
                for Part { length, what } in parts(file, lengths) {
                    wanted.extend(what.map(|(_, number)| (number, content[at..at + length].to_vec())));
                    at += length;
                }
                assert!(seen[file] == wanted, "file {file}");
            }
        }
    }

    #[test]
    fn what_fails_ends_all_threads_and_says_which_file() {
        let jobs = |files: &'static mut [Cursor<Vec<u8>>]| {
            let parts = |number| parts(number, &[1 << 16; 40]);
            let jobs = files.iter_mut().enumerate();
            jobs.map(|(number, file)| Job { file, parts: parts(number) }).collect::<Vec<_>>()
        };
        let files = |short: usize| {
            let content = |number| content(number, if number == short { 1 << 20 } else { 40 << 16 });
            (0..3).map(|number| Cursor::new(content(number))).collect::<Vec<_>>().leak()
        };
        let read = stream(jobs(files(1)), true, &Meter::default(), |_, _| Ok::<_, ()>(())).unwrap_err();
        assert!(matches!(&read, StreamError::Read(1, error) if error.kind() == io::ErrorKind::UnexpectedEof));
        let refuse = |&(_, number): &(usize, usize), _: &[u8]| if number > 10 { Err(number) } else { Ok(()) };
        let refused = stream(jobs(files(9)), true, &Meter::default(), refuse).unwrap_err();
        assert!(matches!(refused, StreamError::Consume(12)));
    }
}
