//! How far a download or a check has come: a bar on a terminal, events in the log otherwise.

use std::fmt;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::model::{LoadProgress, ModelFiles};
use crate::telemetry::{Event, emit};

/// An event is logged each time another this many percent are done.
const STEP_PERCENT: u64 = 10;

/// The pause between two drawings of a bar.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// The pause between two events while weights are loaded.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Where progress is shown.
#[derive(Clone, Copy, Debug)]
pub struct Progress(Target);

#[derive(Clone, Copy, Debug)]
enum Target {
    Log,
    Nowhere,
    Terminal,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Download,
    Verify,
    Load,
}

/// Shows how far a model is loaded until it is dropped.
#[derive(Debug)]
pub struct Loading(
    #[expect(dead_code, reason = "dropping it ends the thread that shows it")] Option<mpsc::Sender<()>>,
);

/// One stage of a fetch; its clones count together.
#[derive(Clone)]
pub(super) struct Bar(Arc<Inner>);

struct Inner {
    stage: Stage,
    /// In bytes.
    total: u64,
    done: Arc<AtomicU64>,
    /// The last step that was logged.
    logged: AtomicU64,
    shown: Shown,
}

enum Shown {
    /// What draws ends when this is dropped.
    Bar(#[expect(dead_code, reason = "dropping it ends the drawing")] mpsc::Sender<()>),
    Events,
    Nothing,
}

impl Progress {
    /// Bars if standard error is a terminal, events in the log otherwise.
    pub fn shown() -> Self {
        Self(if std::io::stderr().is_terminal() { Target::Terminal } else { Target::Log })
    }

    /// Nothing at all.
    pub fn silent() -> Self {
        Self(Target::Nowhere)
    }

    /// Shows how far the weights of `files` are loaded: a bar, or an event in the log every second.
    pub fn loading(self, files: &ModelFiles) -> Loading {
        let files = files.clone();
        let every = match self.0 {
            Target::Nowhere => return Loading(None),
            Target::Terminal => DRAW_EVERY,
            Target::Log => LOG_EVERY,
        };
        let (alive, ended) = mpsc::channel();
        let shown = matches!(self.0, Target::Terminal).then(|| bar(Stage::Load, 0));
        let showing = move || {
            while ended.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
                let LoadProgress { done, total } = files.progress();
                match &shown {
                    Some(bar) => {
                        bar.set_length(total);
                        bar.set_position(done);
                    }
                    None => emit(Event::ModelLoad { percent: percent(done, total) }),
                }
            }
            shown.iter().for_each(ProgressBar::finish_and_clear);
        };
        Loading(std::thread::Builder::new().name("progress".into()).spawn(showing).is_ok().then_some(alive))
    }

    pub(super) fn downloading(self, total: u64) -> Bar {
        self.start(Stage::Download, total)
    }

    pub(super) fn verifying(self, total: u64) -> Bar {
        self.start(Stage::Verify, total)
    }

    fn start(self, stage: Stage, total: u64) -> Bar {
        let done = Arc::new(AtomicU64::new(0));
        let shown = match self.0 {
            Target::Log => Shown::Events,
            Target::Nowhere => Shown::Nothing,
            Target::Terminal => draw(bar(stage, total), Arc::clone(&done)),
        };
        Bar(Arc::new(Inner { stage, total, done, logged: AtomicU64::new(0), shown }))
    }
}

impl Bar {
    /// Shows nothing.
    pub(super) fn none() -> Self {
        Progress::silent().verifying(0)
    }

    /// Counts `bytes` more as done.
    pub(super) fn advance(&self, bytes: u64) {
        let done = self.0.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.0.shown {
            Shown::Events => self.log(done),
            Shown::Bar(_) | Shown::Nothing => {}
        }
    }

    /// Takes `bytes` back that have to be fetched again.
    pub(super) fn rewind(&self, bytes: u64) {
        self.0.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn log(&self, done: u64) {
        let percent = percent(done, self.0.total) / STEP_PERCENT * STEP_PERCENT;
        // Only the thread that raises the percentage logs it, so that each step is logged once.
        if self.0.logged.fetch_max(percent, Ordering::Relaxed) < percent {
            emit(match self.0.stage {
                Stage::Download => Event::ModelDownload { percent },
                Stage::Verify => Event::ModelVerify { percent },
                Stage::Load => Event::ModelLoad { percent },
            });
        }
    }
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bar({:?} of {:?} bytes)", self.0.done, self.0.total)
    }
}

/// Draws `bar` on a thread of its own: a terminal that is stopped (XOFF) blocks whatever writes to it.
fn draw(bar: ProgressBar, done: Arc<AtomicU64>) -> Shown {
    let (alive, ended) = mpsc::channel();
    let drawing = move || {
        while ended.recv_timeout(DRAW_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            bar.set_position(done.load(Ordering::Relaxed).min(bar.length().unwrap_or(0)));
        }
        bar.finish_and_clear();
    };
    match std::thread::Builder::new().name(String::from("progress")).spawn(drawing) {
        Ok(_) => Shown::Bar(alive),
        Err(_) => Shown::Nothing,
    }
}

fn bar(stage: Stage, total: u64) -> ProgressBar {
    let template = match stage {
        Stage::Download => "model download {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        Stage::Verify => "model check    {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        Stage::Load => "model load     {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

fn percent(done: u64, total: u64) -> u64 {
    (u128::from(done.min(total)) * 100 / u128::from(total.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_stay_within_a_hundred() {
        assert_eq!([percent(0, 0), percent(1, 3), percent(3, 3), percent(4, 3)], [0, 33, 100, 100]);
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
    }

    #[test]
    fn a_bar_ends_with_its_stage() {
        let done = Arc::new(AtomicU64::new(3));
        let hidden = ProgressBar::hidden();
        hidden.set_length(2);
        let shown = draw(hidden.clone(), done);
        assert!(!hidden.is_finished());
        drop(shown);
        while !hidden.is_finished() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_template_is_valid() {
        for stage in [Stage::Download, Stage::Verify, Stage::Load] {
            assert_eq!(bar(stage, 5).length(), Some(5));
        }
    }
}
