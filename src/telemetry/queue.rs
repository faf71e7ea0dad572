//! Lines for a pipe or a terminal that may have stopped taking them: a bounded queue, a thread that writes, and a count
//! of the lines that were dropped.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::events::{Event, emit};

/// Lines that wait for the writer: a few megabytes at most.
const QUEUE_LINES: usize = 10_000;
/// The time for the rest of the queue when the process ends. `WorkerGuard` waits up to 1.1 s itself.
const LAST_LINES: Duration = Duration::from_millis(1500);
/// The time for the line on stderr that says why the process ends.
const LAST_ERROR: Duration = Duration::from_secs(1);

/// The drops of this process's log.
static DROPS: OnceLock<Drops> = OnceLock::new();

/// Writes what is left in the queue when it is dropped, but does not wait for long.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard(Option<WorkerGuard>);

/// Counts the lines that were not written.
#[derive(Clone, Debug, Default)]
struct Drops {
    /// Lines that did not fit the queue; set once the queue exists.
    queue: Arc<OnceLock<ErrorCounter>>,
    /// Lines that the writer refused: a closed pipe, a full disk.
    refused: Arc<AtomicU64>,
}

/// A writer that never fails, and reports lost lines once it has caught up.
struct Reporting<W> {
    writer: W,
    drops: Drops,
    reported: u64,
    /// The last line was written. A report of lost lines would be lost as well otherwise, and cause the next report.
    writes: bool,
    report: fn(u64),
}

/// How many lines of the log were dropped because nothing took them.
#[cfg(feature = "server")]
pub(super) fn dropped_lines() -> u64 {
    DROPS.get().map_or(0, Drops::total)
}

/// A queue in front of stdout.
pub(super) fn stdout() -> (impl Fn() -> NonBlocking + Send + Sync + 'static, LogGuard) {
    let report = |lines| emit(Event::LogLinesDropped { lines });
    let (writer, guard, drops) = queue(io::stdout(), QUEUE_LINES, report);
    // A second log of this process is refused later on, so there is one to count.
    DROPS.get_or_init(|| drops);
    (move || writer.clone(), guard)
}

fn queue<W: Write + Send + 'static>(
    writer: W,
    lines: usize,
    report: fn(u64),
) -> (NonBlocking, LogGuard, Drops) {
    let drops = Drops::default();
    let writer = Reporting { writer, drops: drops.clone(), reported: 0, writes: true, report };
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines).thread_name("log");
    let (queue, guard) = queue.finish(writer);
    drops.queue.get_or_init(|| queue.error_counter());
    (queue, LogGuard(Some(guard)), drops)
}

/// Writes `text` to stderr, but waits no longer than a second for something to take it.
pub fn write_error(text: String) {
    within(LAST_ERROR, move || {
        // With stderr closed there is nowhere left to report to.
        io::stderr().write_all(text.as_bytes()).ok();
    });
}

/// Runs `work` on a thread of its own, and waits for it no longer than `limit`: it may block on a pipe.
fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, waiting) = mpsc::channel();
    let spawned = std::thread::Builder::new().name(String::from("last lines")).spawn(move || {
        work();
        // The receiver has given up by then, or hears it.
        done.send(()).ok();
    });
    if spawned.is_ok() {
        waiting.recv_timeout(limit).ok();
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        // Not on this thread: if the queue stays full, the guard of tracing-appender 0.2.5 prints to stdout, which
        // blocks just as the queue does.
        let guard = self.0.take();
        within(LAST_LINES, move || drop(guard));
    }
}

impl Drops {
    fn total(&self) -> u64 {
        let full = self.queue.get().map_or(0, ErrorCounter::dropped_lines);
        self.refused.load(Ordering::Relaxed).saturating_add(full as u64)
    }
}

impl<W: Write> Write for Reporting<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.writes = self.writer.write_all(line).is_ok();
        if !self.writes {
            self.drops.refused.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Called each time the queue is empty.
    fn flush(&mut self) -> io::Result<()> {
        // A line that cannot be flushed was counted when it was written, or comes out with the next one.
        self.writer.flush().ok();
        let total = self.drops.total();
        if self.writes && total > self.reported {
            (self.report)(total - self.reported);
            self.reported = total;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    static REPORTED: AtomicU64 = AtomicU64::new(0);

    /// Takes a line each time it is told how that ends.
    struct Gate {
        verdicts: Receiver<io::Result<()>>,
        lines: Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.verdicts.recv().unwrap_or(Ok(()))?;
            self.lines.send(String::from_utf8(line.to_vec()).unwrap()).unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time_and_is_told_how_many() {
        let (open, verdicts) = channel();
        let (lines, written) = channel();
        let report = |lines| {
            REPORTED.fetch_add(lines, Ordering::SeqCst);
        };
        let (mut queue, guard, drops) = queue(Gate { verdicts, lines }, 10, report);
        for number in 0..1000 {
            // It would block here for good.
            queue.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        let dropped = drops.total();
        // The writer may hold one line that is in the queue no more.
        assert!((989..=990).contains(&dropped), "{dropped}");
        open.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        drop(open);
        drop(guard);
        assert_eq!(written.iter().count() as u64, 1000 - dropped - 1);
        assert_eq!(drops.total(), dropped + 1);
        assert_eq!(REPORTED.load(Ordering::SeqCst), dropped + 1);
    }

    #[test]
    fn a_writer_that_fails_every_time_is_not_told_about_it() {
        let (lines, written) = channel();
        let (verdict, verdicts) = channel();
        let mut writer = Reporting {
            writer: Gate { verdicts, lines },
            drops: Drops::default(),
            reported: 0,
            writes: true,
            report: |_| panic!("a report that fails as well causes the next one"),
        };
        for _ in 0..3 {
            verdict.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
            writer.write_all(b"line").unwrap();
            writer.flush().unwrap();
        }
        assert_eq!((writer.drops.total(), written.try_iter().count()), (3, 0));
    }

    #[test]
    fn the_end_of_the_process_waits_for_no_reader() {
        let (stuck, forever) = channel::<()>();
        within(Duration::ZERO, move || {
            forever.recv().unwrap_err();
        });
        drop(stuck);
    }
}
