//! The one thread that owns the model: takes requests in turn and works a step on each.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::backend::Backend;
use super::handle::Handle;
use super::queue::{Job, Queue, Slot};
use super::sampler::Sampler;
use super::{EngineConfig, EngineError, Event, Finish, StartError, warmup};
use crate::model::Model;
use crate::telemetry;
use crate::tokenizer::TokenId;

/// How many tokens of a prompt are read in one step: others get a turn in between, and memory stays bounded.
const PREFILL_TOKENS: usize = 512;

/// The model thread. Stops when this is dropped, within one step.
pub struct Engine {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

/// A request that is worked on.
struct Running<S> {
    job: Job,
    sequence: S,
    sampler: Sampler,
    /// How much of the prompt the model has read.
    read: usize,
    /// The last token made, which the model has not read yet.
    last: Option<TokenId>,
    made: usize,
    slot: Option<Slot>,
}

/// Stops the queue however the thread ends: no request may wait for a thread that is gone.
struct StopOnExit(Arc<Queue>);

/// Gives `model` to a thread of its own, warms it up and tests it, which takes some steps' time; blocks meanwhile.
///
/// # Errors
/// The model fails its self-test, or no thread can be had.
pub fn start(model: Model, config: EngineConfig) -> Result<(Handle, Engine), StartError> {
    spawn(model, config)
}

pub(super) fn spawn<B: Backend>(backend: B, config: EngineConfig) -> Result<(Handle, Engine), StartError> {
    if config.max_running == 0 {
        return Err(StartError::NothingRunning);
    }
    let queue = Arc::new(Queue::new(config));
    let handle = Handle::new(Arc::clone(&queue), backend.context_length(), backend.name());
    let (tested, verdict) = mpsc::sync_channel(1);
    let worker = Arc::clone(&queue);
    let thread = std::thread::Builder::new()
        .name(String::from("model"))
        .spawn(move || {
            let _stop = StopOnExit(Arc::clone(&worker));
            let result = warmup::run(&backend);
            let passed = result.is_ok();
            if tested.send(result).is_ok() && passed {
                serve(&backend, &worker);
            }
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

/// Works until the queue stops. Each round admits whom there is room for and takes one step for everyone.
fn serve<B: Backend>(backend: &B, queue: &Arc<Queue>) {
    let mut running: Vec<Running<B::Sequence>> = Vec::new();
    while let Some(admitted) = queue.admit() {
        running.extend(admitted.into_iter().map(|(job, slot)| Running::new(backend, job, slot)));
        running.retain_mut(|request| request.step(backend));
    }
}

impl<S> Running<S> {
    fn new<B: Backend<Sequence = S>>(backend: &B, job: Job, slot: Slot) -> Self {
        let sampler = Sampler::new(job.request.sampling);
        Self { job, sequence: backend.begin(), sampler, read: 0, last: None, made: 0, slot: Some(slot) }
    }

    /// Reads a piece of the prompt, or makes one token. Returns whether there is more to do.
    fn step<B: Backend<Sequence = S>>(&mut self, backend: &B) -> bool {
        if self.job.is_abandoned() {
            return false;
        }
        let end = if self.job.is_expired() { Ok(Some(Finish::Deadline)) } else { self.advance(backend) };
        let event = match end {
            Ok(None) => return true,
            Ok(Some(finish)) => Ok(Event::Finished(finish)),
            Err(error) => {
                telemetry::emit(telemetry::Event::GenerationFailed);
                Err(error)
            }
        };
        // First the slot: who hears that a request has ended may count on its place.
        self.slot = None;
        self.job.send(event);
        false
    }

    fn advance<B: Backend<Sequence = S>>(&mut self, backend: &B) -> Result<Option<Finish>, EngineError> {
        let request = &self.job.request;
        if request.max_new_tokens == 0 {
            return Ok(Some(Finish::Length));
        }
        let end = request.prompt.len().min(self.read + PREFILL_TOKENS);
        let prompt = request.prompt.get(self.read..end).unwrap_or_default();
        let tokens = self.last.as_ref().map_or(prompt, std::slice::from_ref);
        let logits = backend.forward(&mut self.sequence, tokens).map_err(|_| EngineError::Failed)?;
        self.read = end;
        if end < request.prompt.len() {
            return Ok(None);
        }
        let token = self.sampler.sample(logits).ok_or(EngineError::Failed)?;
        if request.stop_ids.contains(&token) {
            return Ok(Some(Finish::Stop));
        }
        self.job.send(Ok(Event::Token(token)));
        self.last = Some(token);
        self.made += 1;
        Ok((self.made == request.max_new_tokens).then_some(Finish::Length))
    }
}
