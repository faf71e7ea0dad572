//! The thread that owns the model: admits requests, takes a step for all of them together, samples their tokens.

use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use super::backend::{Backend, Cpu, OnDevice, Row};
use super::blocks::BlockPool;
use super::handle::Handle;
use super::phases::{Phases, timed};
use super::queue::{Queue, QueuedRequest, Slot};
use super::reserve::Reserve;
use super::sampler::{Sampler, Scratch};
use super::scheduler::{Counters, FREE_ROWS, Next, Running, Scheduler, SchedulerConfig};
use super::stats::Stats;
use super::{EngineConfig, EngineError, Event, Finish, Platform, StartError, Token, memory, warmup};
use crate::machine::Available;
use crate::model::{Assumption, DeviceModel, Model, ModelError, ModelFiles, Quantize, StepRoom};
use crate::telemetry;
use codeseal_kernels::cuda::{Device, DeviceError};
use codeseal_kernels::kv::BLOCK_TOKENS;

/// The model thread. Dropping this stops it within one step.
pub struct Engine {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

/// The request of a sequence, and what belongs to it.
struct Task {
    queued: QueuedRequest,
    sampler: Sampler,
    slot: Slot,
}

/// How a sequence ended.
enum End {
    /// With an event to the client.
    Finished(Result<Finish, EngineError>),
    /// The client has cancelled it.
    Abandoned,
}

/// Stops the queue however the thread ends, so that no request waits for a thread that is gone.
struct StopOnExit(Arc<Queue>);

/// What the caller of [`spawn`] learns of a backend that is ready.
struct Ready {
    /// The longest text, in tokens.
    limit: usize,
    name: String,
    platform: Platform,
    assumption: Option<Assumption>,
    phases: Phases,
}

/// Gives `model` to a thread of its own, warms it up and tests it, which takes some steps' time; blocks meanwhile.
///
/// # Errors
/// The model fails its self-test, there is too little memory for keys and values, or a thread cannot be started.
pub fn start(model: Model, config: EngineConfig) -> Result<(Handle, Engine), StartError> {
    let (bytes, length) = (model.kv_block_bytes(), model.context_length());
    let (needs, available) = (model.needs(), Available::now());
    // As if the weights were still to come, so that the figures are whole.
    let before = Available { bytes: available.bytes.saturating_add(needs.weights), ..available };
    memory::check(&config, &needs, step_room(&config), before)?;
    let blocks = memory::blocks(&config, bytes, length, memory::automatic(&needs, available))?;
    spawn(move || Ok(Cpu::new(model, blocks, step_room(&config))), config)
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
    let loaded = Arc::new(OnceLock::new());
    let weights = Arc::clone(&loaded);
    let make = move || {
        let began = Instant::now();
        let model =
            DeviceModel::load(open()?, &files, &name, quantize, |_, _| {}).map_err(StartError::load)?;
        weights.get_or_init(|| began.elapsed());
        on_device(model, &config, None)
    };
    let (mut handle, engine) = spawn(make, config)?;
    let weights = loaded.get().copied().unwrap_or_default();
    let Phases { kv, .. } = handle.phases();
    handle.set_phases(Phases { weights, kv: kv.saturating_sub(weights), ..handle.phases() });
    Ok((handle, engine))
}

/// `model` with the KV cache and the memory that `config` asks for. `difference` is to candle, if they were compared.
///
/// # Errors
/// The device has too little memory.
pub(super) fn on_device<D: Device + 'static>(
    model: DeviceModel<D>,
    config: &EngineConfig,
    difference: Option<f32>,
) -> Result<OnDevice, StartError> {
    let (bytes, length) = (model.kv_block_bytes(), model.config().context_length);
    let room = step_room(config);
    let blocks = memory::blocks(config, bytes, length, model.available_bytes(room)?);
    let blocks = blocks.map_err(|error| match error {
        StartError::TooFewBlocks { least, .. } if config.kv_cache_bytes.is_none() => {
            DeviceError::OutOfMemory(usize::try_from(least).unwrap_or(usize::MAX)).into()
        }
        error => error,
    })?;
    Ok(OnDevice::new(model, blocks, room, difference)?)
}

/// The largest step: all sequences that generate, with draft tokens, and at least one token of a prompt.
pub(super) fn step_room(config: &EngineConfig) -> StepRoom {
    let batch = config.max_running.max(FREE_ROWS);
    let rows = config.step_tokens.max(config.max_running) + FREE_ROWS + 1;
    StepRoom { rows, num_logits: config.max_running + FREE_ROWS, batch }
}

/// Starts the thread of a backend, which `make` makes there.
///
/// # Errors
/// As [`start`].
pub(super) fn spawn<B: Backend + 'static>(
    make: impl FnOnce() -> Result<B, StartError> + Send + 'static,
    config: EngineConfig,
) -> Result<(Handle, Engine), StartError> {
    spawn_boxed(move || Ok(Box::new(make()?)), config)
}

/// As [`spawn`], for a backend of which only `make` knows the type.
///
/// # Errors
/// As [`start`].
pub(super) fn spawn_boxed(
    make: impl FnOnce() -> Result<Box<dyn Backend>, StartError> + Send + 'static,
    config: EngineConfig,
) -> Result<(Handle, Engine), StartError> {
    if config.max_running == 0 {
        return Err(StartError::NothingRunning);
    }
    let queue = Arc::new(Queue::new(config));
    let stats = Arc::new(Stats::default());
    let (tested, verdict) = mpsc::sync_channel(1);
    let (worker, record) = (Arc::clone(&queue), Arc::clone(&stats));
    // The model thread is one of the pool's threads, so a step starts without waking another.
    let pool = rayon::ThreadPoolBuilder::new().thread_name(|index| format!("model {index}")).build()?;
    let thread = std::thread::Builder::new()
        .name(String::from("model"))
        .spawn(move || {
            let _stop = StopOnExit(Arc::clone(&worker));
            pool.install(|| {
                let (made, kv) = timed(make);
                let made = made.and_then(|mut backend| {
                    let (warm_up, self_test) = warmup::run(&mut *backend, &config)?;
                    Ok((backend, Phases { kv, warm_up, self_test, ..Phases::default() }))
                });
                match made {
                    Ok((mut backend, phases)) => {
                        let limit = backend.context_length().min(backend.blocks() * BLOCK_TOKENS);
                        let ready = Ready {
                            limit,
                            name: backend.name().to_owned(),
                            platform: backend.platform(),
                            assumption: backend.assumption(),
                            phases,
                        };
                        record.record(Counters::default(), 0, backend.blocks());
                        if tested.send(Ok(ready)).is_ok() {
                            serve(&mut *backend, &worker, &config, &record);
                        }
                    }
                    // The receiver is gone only if the caller has panicked.
                    Err(error) => drop(tested.send(Err(error))),
                }
            });
        })
        .map_err(StartError::Thread)?;
    let engine = Engine { queue: Arc::clone(&queue), thread: Some(thread) };
    match verdict.recv() {
        Ok(Ok(Ready { limit, name, platform, assumption, phases })) => {
            Ok((Handle::new(queue, stats, limit, &name, platform, assumption, phases), engine))
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
fn serve(backend: &mut dyn Backend, queue: &Arc<Queue>, config: &EngineConfig, stats: &Stats) {
    let scheduling = SchedulerConfig {
        step_tokens: config.step_tokens,
        draft_tokens: config.draft_tokens,
        prefix_cache: config.prefix_cache,
        keep_generated: backend.reads_as_it_generates(),
    };
    let pool = match backend.unwritten_block_bytes() {
        Some(bytes) => {
            let reserve = Reserve::new(backend.blocks(), bytes, Available::writable);
            BlockPool::reserving(backend.blocks(), Some(reserve))
        }
        None => BlockPool::new(backend.blocks()),
    };
    let (mut scheduler, mut scratch) = (Scheduler::new(scheduling, pool), Scratch::default());
    loop {
        let runs = queue.admit(|queued, slot| {
            let sampler = Sampler::new(queued.request.sampling, queued.request.logprobs);
            let task = Task { queued, sampler, slot };
            match scheduler.admit(task, |task| &mut task.queued.request) {
                Ok(sequence) => {
                    sequence.task.queued.send(Ok(Event::Started { cached: sequence.cached() }));
                    Ok(())
                }
                Err(task) => Err((task.queued, task.slot)),
            }
        });
        if !runs {
            return;
        }
        let mut finished = scheduler.end(ended);
        let failure = match step(backend, &mut scheduler, &mut scratch) {
            Ok(ended) => {
                finished.extend(ended);
                None
            }
            Err(error) => {
                // The cause is not known, so no sequence can rely on its keys and values.
                finished.extend(scheduler.fail(|| End::Finished(Err(EngineError::Failed))));
                if let ModelError::Device(error) = error { Some(error) } else { None }
            }
        };
        // First the counters: a client whose request has ended may read them.
        stats.record(scheduler.counters(), scheduler.held_blocks(), backend.blocks());
        if let Some(error) = &failure {
            // A device that has failed stays unusable.
            telemetry::emit(telemetry::Event::DeviceFailed);
            queue.fail(error.to_string());
        }
        finished.into_iter().for_each(finish);
        if failure.is_some() {
            return;
        }
    }
}

/// Whether a sequence ends before the next step, and how.
fn ended(task: &Task) -> Option<End> {
    if task.queued.is_abandoned() {
        return Some(End::Abandoned);
    }
    task.queued.is_expired().then_some(End::Finished(Ok(Finish::Deadline)))
}

/// Takes one step for every sequence that there is, and returns those that it ended.
fn step(
    backend: &mut dyn Backend,
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
    let samplers = scheduler.for_each_logit_row(|task| task.sampler.on_device());
    let rows: Vec<_> = backend.step(&batch, &samplers)?.each(&samplers).collect();
    drop(batch);
    Ok(scheduler.stepped(|sequence, own| sample(sequence, rows.get(own).unwrap_or_default(), scratch)))
}

/// Samples the next tokens: one for each row, as long as draft tokens are accepted.
fn sample(sequence: &mut Running<Task>, rows: &[Row<'_>], scratch: &mut Scratch) -> Option<End> {
    if sequence.only_read() {
        return Some(End::Finished(Ok(Finish::Length)));
    }
    for row in rows {
        let sampler = sequence.task.sampler;
        let sampled = match row {
            Row::Logits(logits) => sampler.sample(logits, sequence.text(), scratch),
            Row::Sampled(token) => *token,
        };
        let Some(id) = sampled else {
            return Some(End::Finished(Err(EngineError::Failed)));
        };
        let next = sequence.accept(id);
        if next != Next::Finished(Finish::Stop) {
            let logprobs = match row {
                Row::Logits(logits) => sampler.logprobs(logits, id),
                Row::Sampled(_) => None,
            };
            sequence.task.queued.send(Ok(Event::Token(Token { id, logprobs })));
        }
        match next {
            Next::Row => {}
            Next::Step => return None,
            Next::Finished(finish) => return Some(End::Finished(Ok(finish))),
        }
    }
    None
}

/// Sends the last event of a sequence, whose blocks have been released.
fn finish((task, end): (Task, End)) {
    let Task { queued, slot, .. } = task;
    // First the slot: a client whose request has ended may use its place.
    drop(slot);
    let End::Finished(end) = end else { return };
    if end.is_err() {
        telemetry::emit(telemetry::Event::GenerationFailed);
    }
    queued.send(end.map(Event::Finished));
}
