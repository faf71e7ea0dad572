//! The one thread that owns the model: admits requests, takes a step for all of them together, chooses their tokens.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::backend::{Backend, Cpu};
use super::handle::Handle;
use super::queue::{Job, Queue, Slot};
use super::sampler::{Sampler, Scratch};
use super::scheduler::{Limits, Next, Running, Scheduler};
use super::stats::Stats;
use super::{EngineConfig, EngineError, Event, Finish, StartError, Token, memory, warmup};
use crate::kernels::cpu::BLOCK_TOKENS;
use crate::model::Model;
use crate::telemetry;

/// The model thread. Stops when this is dropped, within one step.
pub struct Engine {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

/// What a sequence is worked on for.
struct Task {
    job: Job,
    sampler: Sampler,
    slot: Slot,
}

/// How a sequence ended.
enum End {
    /// As whoever asked is told.
    Told(Result<Finish, EngineError>),
    /// Whoever asked has left.
    Left,
}

/// Stops the queue however the thread ends: no request may wait for a thread that is gone.
struct StopOnExit(Arc<Queue>);

/// Gives `model` to a thread of its own, warms it up and tests it, which takes some steps' time; blocks meanwhile.
///
/// # Errors
/// The model fails its self-test, there is too little memory for keys and values, or no thread can be had.
pub fn start(model: Model, config: EngineConfig) -> Result<(Handle, Engine), StartError> {
    let blocks = memory::blocks(&config, model.kv_block_bytes(), model.context_length())?;
    spawn(Cpu::new(model, blocks), config)
}

pub(super) fn spawn<B: Backend>(
    mut backend: B,
    config: EngineConfig,
) -> Result<(Handle, Engine), StartError> {
    if config.max_running == 0 {
        return Err(StartError::NothingRunning);
    }
    let limit = backend.context_length().min(backend.blocks() * BLOCK_TOKENS);
    let queue = Arc::new(Queue::new(config));
    let stats = Arc::new(Stats::default());
    let handle = Handle::new(Arc::clone(&queue), Arc::clone(&stats), limit, backend.name());
    let (tested, verdict) = mpsc::sync_channel(1);
    let worker = Arc::clone(&queue);
    // The model's own, and it works on one of its threads: a step begins without waking another to begin it.
    let pool = rayon::ThreadPoolBuilder::new().thread_name(|index| format!("model {index}")).build()?;
    let thread = std::thread::Builder::new()
        .name(String::from("model"))
        .spawn(move || {
            let _stop = StopOnExit(Arc::clone(&worker));
            pool.install(|| {
                let result = warmup::run(&mut backend, &config);
                let passed = result.is_ok();
                if tested.send(result).is_ok() && passed {
                    serve(&mut backend, &worker, &config, &stats);
                }
            });
        })
        .map_err(StartError::Thread)?;
    let engine = Engine { queue, thread: Some(thread) };
    match verdict.recv() {
        Ok(Ok(())) => Ok((handle, engine)),
        Ok(Err(error)) => Err(error),
        Err(mpsc::RecvError) => Err(StartError::Panicked),
    }
}

impl Engine {
    /// Ends the thread and waits for that, which takes up to one step: call it from where blocking is allowed.
    /// Requests that are still there end with an error.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if the thread had panicked.
    pub fn shutdown(mut self) -> Result<(), EngineError> {
        self.queue.stop();
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| EngineError::Failed))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.stop();
    }
}

impl Drop for StopOnExit {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Works until the queue stops.
fn serve<B: Backend>(backend: &mut B, queue: &Arc<Queue>, config: &EngineConfig, stats: &Stats) {
    let limits = Limits {
        step_tokens: config.step_tokens,
        draft_tokens: config.draft_tokens,
        prefix_cache: config.prefix_cache,
    };
    let (mut scheduler, mut scratch) = (Scheduler::new(limits, backend.blocks()), Scratch::default());
    loop {
        let runs = queue.admit(|job, slot| {
            let sampler = Sampler::new(job.request.sampling, job.request.logprobs);
            let task = Task { job, sampler, slot };
            match scheduler.admit(task, |task| &mut task.job.request) {
                Ok(sequence) => {
                    sequence.job.job.send(Ok(Event::Started));
                    Ok(())
                }
                Err(task) => Err((task.job, task.slot)),
            }
        });
        if !runs {
            return;
        }
        let mut left = scheduler.end(ended);
        left.extend(step(backend, &mut scheduler, &mut scratch));
        // First the numbers: who hears that a request has ended may count on them.
        stats.record(scheduler.counters(), scheduler.held_blocks(), backend.blocks());
        left.into_iter().for_each(finish);
    }
}

/// Whether a sequence ends before the next step, and how.
fn ended(task: &Task) -> Option<End> {
    if task.job.is_abandoned() {
        return Some(End::Left);
    }
    task.job.is_expired().then_some(End::Told(Ok(Finish::Deadline)))
}

/// Takes one step for every sequence that there is, and returns those that it ended.
fn step<B: Backend>(
    backend: &mut B,
    scheduler: &mut Scheduler<Task>,
    scratch: &mut Scratch,
) -> Vec<(Task, End)> {
    scheduler.plan();
    for block in scheduler.take_uncleared() {
        backend.clear(block);
    }
    let batch = scheduler.batch();
    if batch.is_empty() {
        return Vec::new();
    }
    let vocab = backend.vocab_size();
    match backend.step(&batch) {
        Ok(logits) => {
            drop(batch);
            scheduler.stepped(|sequence, rows| {
                let rows = logits.chunks_exact(vocab).skip(rows.start).take(rows.len());
                choose(sequence, rows, scratch)
            })
        }
        Err(_) => {
            drop(batch);
            // Who caused it cannot be told: whatever the device did, no sequence can rely on its keys and values.
            scheduler.end(|_| Some(End::Told(Err(EngineError::Failed))))
        }
    }
}

/// Chooses the tokens that follow, one for each row of logits as long as the rows hold.
fn choose<'l>(
    sequence: &mut Running<Task>,
    rows: impl Iterator<Item = &'l [f32]>,
    scratch: &mut Scratch,
) -> Option<End> {
    if sequence.only_read() {
        return Some(End::Told(Ok(Finish::Length)));
    }
    for logits in rows {
        let sampler = sequence.job.sampler;
        let Some(id) = sampler.sample(logits, sequence.text(), scratch) else {
            return Some(End::Told(Err(EngineError::Failed)));
        };
        let next = sequence.settle(id);
        if next != Next::Finished(Finish::Stop) {
            let logprobs = sampler.logprobs(logits, id);
            sequence.job.job.send(Ok(Event::Token(Token { id, logprobs })));
        }
        match next {
            Next::Row => {}
            Next::Step => return None,
            Next::Finished(finish) => return Some(End::Told(Ok(finish))),
        }
    }
    None
}

/// Says how a sequence ended, whose blocks have been given back.
fn finish((task, end): (Task, End)) {
    let Task { job, slot, .. } = task;
    // First the slot: who hears that a request has ended may count on its place.
    drop(slot);
    let End::Told(end) = end else { return };
    if end.is_err() {
        telemetry::emit(telemetry::Event::GenerationFailed);
    }
    job.send(end.map(Event::Finished));
}
