//! The one thread that owns the model: admits requests, takes a step for all of them together, chooses their tokens.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::backend::{Backend, Cpu, OnDevice, Row};
use super::handle::Handle;
use super::queue::{Job, Queue, Slot};
use super::sampler::{Sampler, Scratch};
use super::scheduler::{FREE_ROWS, Limits, Next, Running, Scheduler};
use super::stats::Stats;
use super::{EngineConfig, EngineError, Event, Finish, Platform, StartError, Token, memory, warmup};
use crate::machine::Available;
use crate::model::{DeviceModel, Model, ModelError, ModelFiles, Quantize, StepRoom};
use crate::telemetry;
use codeseal_kernels::cpu::BLOCK_TOKENS;
use codeseal_kernels::cuda::{Device, DeviceError};

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

/// A backend that is ready, as whoever waits for it hears.
struct Ready {
    /// The longest text, in tokens.
    limit: usize,
    name: String,
    platform: Platform,
}

/// Gives `model` to a thread of its own, warms it up and tests it, which takes some steps' time; blocks meanwhile.
///
/// # Errors
/// The model fails its self-test, there is too little memory for keys and values, or no thread can be had.
pub fn start(model: Model, config: EngineConfig) -> Result<(Handle, Engine), StartError> {
    let (bytes, length) = (model.kv_block_bytes(), model.context_length());
    let (needs, available) = (model.needs(), Available::now());
    // As if the weights were still to come, so that the figures are whole.
    let before = Available { bytes: available.bytes.saturating_add(needs.weights), ..available };
    memory::check(&config, &needs, step_room(&config), before)?;
    let blocks = memory::blocks(&config, bytes, length, memory::automatic(&needs, available))?;
    spawn(move || Ok(Cpu::new(model, blocks)), config)
}

/// As [`start`], on the device that `open` opens, with the model in `files`. All of it happens on the model's thread, to
/// which a device belongs.
///
/// # Errors
/// As [`start`], and the device cannot be opened, has too little memory, or fails.
pub fn start_on<D: Device + 'static>(
    open: impl FnOnce() -> Result<D, DeviceError> + Send + 'static,
    files: ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<(Handle, Engine), StartError> {
    let name = name.to_owned();
    let make = move || {
        let model =
            DeviceModel::load(open()?, &files, &name, quantize, |_, _| {}).map_err(StartError::load)?;
        let (bytes, length) = (model.kv_block_bytes(), model.config().context_length);
        let room = step_room(&config);
        let blocks = memory::blocks(&config, bytes, length, model.available_bytes(room)?);
        let blocks = blocks.map_err(|error| match error {
            StartError::TooFewBlocks { least, .. } if config.kv_cache_bytes.is_none() => {
                DeviceError::OutOfMemory(usize::try_from(least).unwrap_or(usize::MAX)).into()
            }
            error => error,
        })?;
        Ok(OnDevice::new(model, blocks, room)?)
    };
    spawn(make, config)
}

/// What a step comes to at most: everyone who generates, with guesses, and at least one token of a prompt.
pub(super) fn step_room(config: &EngineConfig) -> StepRoom {
    let batch = config.max_running.max(FREE_ROWS);
    let rows = config.step_tokens.max(config.max_running) + FREE_ROWS + 1;
    StepRoom { rows, wanted: config.max_running + FREE_ROWS, batch }
}

pub(super) fn spawn<B: Backend>(
    make: impl FnOnce() -> Result<B, StartError> + Send + 'static,
    config: EngineConfig,
) -> Result<(Handle, Engine), StartError> {
    if config.max_running == 0 {
        return Err(StartError::NothingRunning);
    }
    let queue = Arc::new(Queue::new(config));
    let stats = Arc::new(Stats::default());
    let (tested, verdict) = mpsc::sync_channel(1);
    let (worker, record) = (Arc::clone(&queue), Arc::clone(&stats));
    // The model's own, and it works on one of its threads: a step begins without waking another to begin it.
    let pool = rayon::ThreadPoolBuilder::new().thread_name(|index| format!("model {index}")).build()?;
    let thread = std::thread::Builder::new()
        .name(String::from("model"))
        .spawn(move || {
            let _stop = StopOnExit(Arc::clone(&worker));
            pool.install(|| {
                let made = make().and_then(|mut backend| {
                    warmup::run(&mut backend, &config)?;
                    Ok(backend)
                });
                match made {
                    Ok(mut backend) => {
                        let limit = backend.context_length().min(backend.blocks() * BLOCK_TOKENS);
                        let (name, platform) = (backend.name().to_owned(), backend.platform());
                        if tested.send(Ok(Ready { limit, name, platform })).is_ok() {
                            serve(&mut backend, &worker, &config, &record);
                        }
                    }
                    // Whoever started it has panicked if nobody hears.
                    Err(error) => drop(tested.send(Err(error))),
                }
            });
        })
        .map_err(StartError::Thread)?;
    let engine = Engine { queue: Arc::clone(&queue), thread: Some(thread) };
    match verdict.recv() {
        Ok(Ok(Ready { limit, name, platform })) => {
            Ok((Handle::new(queue, stats, limit, &name, platform), engine))
        }
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

/// Works until the queue stops, or the device fails.
fn serve<B: Backend>(backend: &mut B, queue: &Arc<Queue>, config: &EngineConfig, stats: &Stats) {
    let limits = Limits {
        step_tokens: config.step_tokens,
        draft_tokens: config.draft_tokens,
        prefix_cache: config.prefix_cache,
        keep_generated: backend.reads_as_it_generates(),
    };
    let (mut scheduler, mut scratch) = (Scheduler::new(limits, backend.blocks()), Scratch::default());
    loop {
        let runs = queue.admit(|job, slot| {
            let sampler = Sampler::new(job.request.sampling, job.request.logprobs);
            let task = Task { job, sampler, slot };
            match scheduler.admit(task, |task| &mut task.job.request) {
                Ok(sequence) => {
                    sequence.job.job.send(Ok(Event::Started { cached: sequence.cached() }));
                    Ok(())
                }
                Err(task) => Err((task.job, task.slot)),
            }
        });
        if !runs {
            return;
        }
        let mut left = scheduler.end(ended);
        let failure = match step(backend, &mut scheduler, &mut scratch) {
            Ok(ended) => {
                left.extend(ended);
                None
            }
            Err(error) => {
                // Who caused it cannot be told: whatever happened, no sequence can rely on its keys and values.
                left.extend(scheduler.fail(|| End::Told(Err(EngineError::Failed))));
                if let ModelError::Device(error) = error { Some(error) } else { None }
            }
        };
        // First the numbers: who hears that a request has ended may count on them.
        stats.record(scheduler.counters(), scheduler.held_blocks(), backend.blocks());
        if let Some(error) = &failure {
            // A device that has failed answers nothing any more.
            telemetry::emit(telemetry::Event::DeviceFailed);
            queue.fail(error.to_string());
        }
        left.into_iter().for_each(finish);
        if failure.is_some() {
            return;
        }
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
) -> Result<Vec<(Task, End)>, ModelError> {
    scheduler.plan();
    for block in scheduler.take_uncleared() {
        backend.clear(block)?;
    }
    let batch = scheduler.batch();
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let choices = scheduler.for_each_wanted(|task| task.sampler.choice());
    let rows: Vec<_> = backend.step(&batch, &choices)?.each(&choices).collect();
    drop(batch);
    Ok(scheduler.stepped(|sequence, wanted| choose(sequence, rows.get(wanted).unwrap_or_default(), scratch)))
}

/// Takes the tokens that follow, one for each row as long as the rows hold.
fn choose(sequence: &mut Running<Task>, rows: &[Row<'_>], scratch: &mut Scratch) -> Option<End> {
    if sequence.only_read() {
        return Some(End::Told(Ok(Finish::Length)));
    }
    for row in rows {
        let sampler = sequence.job.sampler;
        let chosen = match row {
            Row::Logits(logits) => sampler.sample(logits, sequence.text(), scratch),
            Row::Chosen(token) => *token,
        };
        let Some(id) = chosen else {
            return Some(End::Told(Err(EngineError::Failed)));
        };
        let next = sequence.settle(id);
        if next != Next::Finished(Finish::Stop) {
            let logprobs = match row {
                Row::Logits(logits) => sampler.logprobs(logits, id),
                Row::Chosen(_) => None,
            };
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
