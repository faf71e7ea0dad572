//! The engine over a model that is made up, and that waits to be let on.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::time::timeout;

use super::backend::{Backend, Rows};
use super::thread::spawn;
use super::*;
use crate::model::{ModelError, Slice};
use crate::protocol::Dek;
use codeseal_kernels::cuda::DeviceError;
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};
use codeseal_kernels::sampling::RowSampler;

const VOCAB: u32 = 200;
const CONTEXT: usize = 2048;
/// For two of the longest texts.
const BLOCKS: usize = 2 * CONTEXT / BLOCK_TOKENS;
/// What makes the model misbehave, as the last token that it reads.
const PANICS: TokenId = TokenId(190);
const FAILS: TokenId = TokenId(191);
const NO_NUMBER: TokenId = TokenId(192);
const DEVICE_FAILS: TokenId = TokenId(193);

/// Continues every text with the last token's successor.
#[derive(Clone, Default)]
struct Fake {
    watch: Arc<Watch>,
    /// What was read into each block.
    memory: HashMap<BlockId, [u32; BLOCK_TOKENS]>,
    logits: Vec<f32>,
    /// Breaks the very first text that is read: the warm-up's.
    broken: Option<TokenId>,
    /// Says something else of a text that it reads in pieces.
    forgetful: bool,
}

/// For each sequence of a step, the first token of its text and how many were read.
type Step = Vec<(u32, usize)>;

/// Sees each step, and holds it back.
#[derive(Default)]
struct Watch {
    state: Mutex<WatchState>,
    changed: Condvar,
}

#[derive(Default)]
struct WatchState {
    /// The steps since the watch was armed.
    steps: Option<Vec<Step>>,
    /// How many of the steps may end.
    allowed: usize,
}

impl Watch {
    fn arm(&self) {
        *self.state.lock().unwrap() = WatchState { steps: Some(Vec::new()), allowed: 0 };
    }

    fn allow(&self, steps: usize) {
        let mut state = self.state.lock().unwrap();
        state.allowed = state.allowed.saturating_add(steps);
        self.changed.notify_all();
    }

    /// Waits until as many steps have begun and returns them.
    fn steps(&self, count: usize) -> Vec<Step> {
        let seen = |state: &mut WatchState| state.steps.as_ref().unwrap().len() < count;
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state.lock().unwrap(), Duration::from_secs(20), seen)
            .unwrap();
        state.steps.clone().unwrap()
    }

    fn step(&self, step: Step) {
        let mut state = self.state.lock().unwrap();
        let Some(steps) = &mut state.steps else { return };
        steps.push(step);
        let number = steps.len();
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| state.allowed < number).unwrap());
    }
}

impl Backend for Fake {
    fn step(&mut self, batch: &[Slice<'_>], _: &[Option<RowSampler>]) -> Result<Rows<'_>, ModelError> {
        let mut step = Step::new();
        self.logits.clear();
        for slice in batch {
            for (position, token) in (slice.position..).zip(slice.tokens) {
                let block = self.memory.entry(slice.blocks[position / BLOCK_TOKENS]).or_default();
                block[position % BLOCK_TOKENS] = token.0;
            }
            step.push((self.memory[&slice.blocks[0]][0], slice.tokens.len()));
        }
        self.watch.step(step);
        for slice in batch {
            for last in &slice.tokens[slice.tokens.len() - slice.num_logits..] {
                let mut logits = vec![0.0; VOCAB as usize];
                match self.broken.unwrap_or(*last) {
                    PANICS => panic!("as told"),
                    FAILS => return Err(ModelError::ContextFull),
                    DEVICE_FAILS => return Err(DeviceError::Failed("as told".to_owned()).into()),
                    NO_NUMBER => logits[7] = f32::NAN,
                    _ => logits[(last.0 as usize + 1) % VOCAB as usize] = 1.0,
                }
                if self.forgetful {
                    logits[9] = slice.position as f32;
                }
                self.logits.extend(logits);
            }
        }
        Ok(Rows::logits(&self.logits, VOCAB as usize))
    }

    fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        self.memory.remove(&block);
        Ok(())
    }

    fn blocks(&self) -> usize {
        BLOCKS
    }

    fn context_length(&self) -> usize {
        CONTEXT
    }

    fn name(&self) -> &str {
        "fake"
    }

    fn platform(&self) -> super::Platform {
        super::Platform {
            device: "fake".into(),
            kernels: "fake".into(),
            weights: "fake".into(),
            backend: BackendKind::Kernels,
            difference: None,
        }
    }
}

fn request(prompt: &[u32], max_new_tokens: usize) -> GenerationRequest {
    GenerationRequest {
        prompt: prompt.iter().copied().map(TokenId).collect(),
        max_new_tokens,
        stop_ids: &[TokenId(50)],
        sampling: Sampling::GREEDY,
        logprobs: None,
        namespace: Dek::generate().unwrap().namespace(),
        deadline: Instant::now() + Duration::from_secs(60),
    }
}

fn engine(max_running: usize, max_waiting: usize) -> (Handle, Engine, Arc<Watch>) {
    let fake = Fake::default();
    let watch = Arc::clone(&fake.watch);
    let config = EngineConfig { step_tokens: 512, ..EngineConfig::new(max_running, max_waiting) };
    let (handle, engine) = spawn(move || Ok(fake), config).unwrap();
    (handle, engine, watch)
}

async fn next(generation: &mut Generation) -> Option<Result<Event, EngineError>> {
    let hang = Duration::from_secs(20);
    match timeout(hang, generation.next()).await.expect("the engine hangs") {
        Some(Ok(Event::Started { .. })) => timeout(hang, generation.next()).await.expect("the engine hangs"),
        event => event,
    }
}

fn token(id: u32) -> Option<Result<Event, EngineError>> {
    Some(Ok(Event::Token(Token { id: TokenId(id), logprobs: None })))
}

/// All tokens, and how it ended.
async fn rest(mut generation: Generation) -> (Vec<u32>, Result<Finish, EngineError>) {
    let mut tokens = Vec::new();
    loop {
        let end = match next(&mut generation).await.unwrap() {
            Ok(Event::Started { .. }) => panic!("a generation starts once"),
            Ok(Event::Token(token)) => {
                tokens.push(token.id.0);
                continue;
            }
            Ok(Event::Finished(finish)) => Ok(finish),
            Err(error) => Err(error),
        };
        assert_eq!(next(&mut generation).await, None, "nothing follows the end");
        return (tokens, end);
    }
}

#[tokio::test]
async fn a_request_ends_at_its_length_or_at_a_stop_token_which_is_not_shown() {
    let (handle, _engine, _) = engine(4, 4);
    for (prompt, length, tokens, finish) in [
        (&[2, 10][..], 3, &[11, 12, 13][..], Finish::Length),
        (&[2, 47], 9, &[48, 49], Finish::Stop),
        (&[2, 49], 9, &[], Finish::Stop),
        (&[2, 10], 0, &[], Finish::Length),
    ] {
        let generation = handle.submit(request(prompt, length)).unwrap();
        assert_eq!(rest(generation).await, (tokens.to_vec(), Ok(finish)));
    }
}

#[tokio::test]
async fn what_does_not_fit_the_context_is_refused_at_once() {
    let (handle, _engine, _) = engine(1, 0);
    assert_eq!((handle.context_length(), handle.model_name()), (CONTEXT, "fake"));
    let prompt = vec![3; CONTEXT - 4];
    for too_many in [5, CONTEXT, usize::MAX] {
        let refused = handle.submit(request(&prompt, too_many)).err();
        assert_eq!(refused, Some(SubmitError::TooLong { limit: CONTEXT }));
    }
    assert_eq!(handle.submit(request(&[], 1)).err(), Some(SubmitError::Empty));
    assert_eq!(rest(handle.submit(request(&prompt, 4)).unwrap()).await.0, [4, 5, 6, 7]);
}

#[tokio::test]
async fn requests_take_turns_and_a_long_prompt_lets_others_through() {
    let (handle, _engine, watch) = engine(2, 0);
    watch.arm();
    let first = handle.submit(request(&[60], 3)).unwrap();
    watch.steps(1);
    let mut long = vec![80; 1100];
    long[0] = 70;
    let second = handle.submit(request(&long, 2)).unwrap();
    watch.allow(usize::MAX);
    assert_eq!(rest(second).await, (vec![81, 82], Ok(Finish::Length)));
    assert_eq!(rest(first).await, (vec![61, 62, 63], Ok(Finish::Length)));
    let together = vec![(60, 1), (70, 511)];
    assert_eq!(watch.steps(5), [vec![(60, 1)], together.clone(), together, vec![(70, 78)], vec![(70, 1)]]);
}

#[tokio::test]
async fn the_queue_is_served_in_order_and_is_bounded() {
    let (handle, _engine, watch) = engine(1, 2);
    watch.arm();
    let mut generations: Vec<_> =
        [60, 70, 80].map(|first| handle.submit(request(&[first], 2)).unwrap()).into_iter().collect();
    watch.steps(1);
    assert_eq!((handle.load().running, handle.load().waiting), (1, 2));
    assert_eq!(handle.submit(request(&[90], 1)).err(), Some(SubmitError::Full));
    drop(generations.remove(1));
    generations.push(handle.submit(request(&[90], 2)).expect("an abandoned request makes room"));
    watch.allow(usize::MAX);
    for generation in generations {
        assert_eq!(rest(generation).await.1, Ok(Finish::Length));
    }
    assert_eq!(watch.steps(6), [60, 60, 80, 80, 90, 90].map(|text| vec![(text, 1)]));
}

#[tokio::test]
async fn a_slot_is_free_once_the_end_was_received() {
    let (handle, _engine, _) = engine(1, 0);
    for _ in 0..200 {
        rest(handle.submit(request(&[2, 10], 1)).unwrap()).await.1.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_generation_is_worked_on_no_more() {
    let (handle, _engine, watch) = engine(1, 1);
    watch.arm();
    let mut dropped = handle.submit(request(&[60], 100)).unwrap();
    watch.allow(2);
    for expected in [61, 62] {
        assert_eq!(next(&mut dropped).await, token(expected));
    }
    watch.steps(3);
    drop(dropped);
    watch.allow(usize::MAX);
    assert_eq!(rest(handle.submit(request(&[90], 2)).unwrap()).await.0, [91, 92]);
    assert_eq!(watch.steps(5), [60, 60, 60, 90, 90].map(|text| vec![(text, 1)]));
    let Load { running, waiting, kv_blocks_used, .. } = handle.load();
    assert_eq!((running, waiting, kv_blocks_used), (0, 0, 0));
}

#[tokio::test]
async fn time_runs_out_while_running_and_while_waiting() {
    let (handle, _engine, watch) = engine(1, 1);
    let expired = || {
        let mut request = request(&[60], 9);
        request.deadline = Instant::now();
        request
    };
    assert_eq!(rest(handle.submit(expired()).unwrap()).await, (vec![], Ok(Finish::Deadline)));
    watch.arm();
    let running = handle.submit(request(&[70], 3)).unwrap();
    watch.steps(1);
    let waiting = handle.submit(expired()).unwrap();
    watch.allow(1);
    assert_eq!(rest(waiting).await, (vec![], Ok(Finish::Deadline)));
    watch.allow(usize::MAX);
    assert_eq!(rest(running).await, (vec![71, 72, 73], Ok(Finish::Length)));
}

#[tokio::test]
async fn a_request_whose_numbers_are_wrong_fails_alone() {
    let (handle, _engine, watch) = engine(4, 0);
    watch.arm();
    let fine = handle.submit(request(&[60], 40)).unwrap();
    watch.steps(1);
    let generation = handle.submit(request(&[NO_NUMBER.0], 3)).unwrap();
    watch.allow(usize::MAX);
    assert_eq!(rest(generation).await, (vec![], Err(EngineError::Failed)));
    assert_eq!(rest(fine).await.1, Ok(Finish::Length));
    assert_eq!(watch.steps(2)[1], [(60, 1), (NO_NUMBER.0, 1)]);
}

#[tokio::test]
async fn a_step_that_fails_ends_the_requests_in_it_and_no_others() {
    let (handle, _engine, watch) = engine(2, 1);
    watch.arm();
    let together = handle.submit(request(&[60], 40)).unwrap();
    watch.steps(1);
    let fatal = handle.submit(request(&[FAILS.0], 3)).unwrap();
    let later = handle.submit(request(&[70], 3)).unwrap();
    watch.allow(usize::MAX);
    assert_eq!(rest(together).await, (vec![61], Err(EngineError::Failed)));
    assert_eq!(rest(fatal).await, (vec![], Err(EngineError::Failed)));
    assert_eq!(rest(later).await.1, Ok(Finish::Length));
    assert!(!handle.is_stopped());
}

#[tokio::test]
async fn the_namespace_with_fewer_running_requests_goes_first() {
    let (handle, _engine, watch) = engine(1, 9);
    watch.arm();
    let submit = |first: u32, namespace| {
        let mut request = request(&[first], 1);
        request.namespace = namespace;
        handle.submit(request).unwrap()
    };
    let [many, few] = [(), ()].map(|()| Dek::generate().unwrap().namespace());
    let running = submit(60, many);
    watch.steps(1);
    let rest_of_them = [submit(61, many), submit(62, many), submit(80, few)];
    watch.allow(usize::MAX);
    for generation in [running].into_iter().chain(rest_of_them) {
        assert_eq!(rest(generation).await.1, Ok(Finish::Length));
    }
    // One at a time: when a slot is free, no namespace has a running request, and the first in the queue is next.
    assert_eq!(watch.steps(4), [60, 61, 62, 80].map(|text| vec![(text, 1)]));

    let (handle, _engine, watch) = engine(2, 9);
    watch.arm();
    let submit = |first: u32, length, namespace| {
        let mut request = request(&[first], length);
        request.namespace = namespace;
        handle.submit(request).unwrap()
    };
    let long = submit(60, 5, many);
    watch.steps(1);
    let rest_of_them = [submit(70, 1, many), submit(80, 1, few), submit(90, 1, few)];
    watch.allow(usize::MAX);
    for generation in [long].into_iter().chain(rest_of_them) {
        assert_eq!(rest(generation).await.1, Ok(Finish::Length));
    }
    let beside: Vec<_> = watch.steps(5).iter().filter_map(|step| step.get(1)).map(|one| one.0).collect();
    assert_eq!(beside, [80, 90, 70]);
}

#[tokio::test]
async fn a_request_waits_for_blocks_and_then_runs() {
    let (handle, _engine, watch) = engine(4, 4);
    watch.arm();
    let whole = vec![60; CONTEXT - 2];
    let generations: Vec<_> = [60, 70, 80]
        .map(|first| {
            let mut prompt = whole.clone();
            prompt[0] = first;
            handle.submit(request(&prompt, 2)).unwrap()
        })
        .into();
    watch.steps(1);
    watch.allow(usize::MAX);
    for generation in generations {
        assert_eq!(rest(generation).await, (vec![61, 62], Ok(Finish::Length)));
    }
    assert!(watch.steps(1).iter().all(|step| step.len() <= 2), "there are blocks for two");
}

#[tokio::test]
async fn a_panic_ends_every_request_with_an_error_and_refuses_new_ones() {
    let (handle, engine, watch) = engine(2, 1);
    watch.arm();
    let running = handle.submit(request(&[60], 3)).unwrap();
    watch.steps(1);
    let fatal = handle.submit(request(&[PANICS.0], 3)).unwrap();
    let waiting = handle.submit(request(&[70], 3)).unwrap();
    watch.allow(usize::MAX);
    assert_eq!(rest(running).await, (vec![61], Err(EngineError::Failed)));
    assert_eq!(rest(fatal).await, (vec![], Err(EngineError::Failed)));
    assert_eq!(rest(waiting).await, (vec![], Err(EngineError::Failed)));
    assert_eq!(engine.shutdown(), Err(EngineError::Failed));
    assert_eq!(handle.submit(request(&[60], 3)).err(), Some(SubmitError::Stopped));
    assert!(handle.is_stopped());
}

#[tokio::test]
async fn an_engine_that_is_shut_down_or_dropped_ends_all_requests() {
    for shut_down in [true, false] {
        let (handle, engine, watch) = engine(1, 1);
        watch.arm();
        let generations = [60, 70].map(|first| handle.submit(request(&[first], 1000)).unwrap());
        watch.steps(1);
        if shut_down {
            let thread = std::thread::spawn(|| engine.shutdown());
            while !handle.is_stopped() {
                tokio::task::yield_now().await;
            }
            watch.allow(usize::MAX);
            assert_eq!(thread.join().unwrap(), Ok(()));
        } else {
            drop(engine);
            watch.allow(usize::MAX);
        }
        for generation in generations {
            assert_eq!(rest(generation).await.1, Err(EngineError::Failed));
        }
        assert_eq!(handle.submit(request(&[60], 3)).err(), Some(SubmitError::Stopped));
    }
}

#[tokio::test]
async fn a_device_that_fails_ends_the_engine_and_says_why() {
    let (handle, _engine, _watch) = engine(1, 4);
    let running = handle.submit(request(&[DEVICE_FAILS.0], 5)).unwrap();
    // The device may have failed before this one is submitted.
    let waiting = handle.submit(request(&[60], 5));
    assert_eq!(rest(running).await, (vec![], Err(EngineError::Failed)));
    match waiting {
        Ok(waiting) => assert_eq!(rest(waiting).await, (vec![], Err(EngineError::Failed))),
        Err(error) => assert_eq!(error, SubmitError::Stopped),
    }
    timeout(Duration::from_secs(20), handle.stopped()).await.expect("the engine goes on");
    assert_eq!(handle.failure().as_deref(), Some("the device failed: as told"));
    assert_eq!(handle.submit(request(&[60], 3)).err(), Some(SubmitError::Stopped));
}

#[test]
fn a_model_that_is_wrong_is_not_served() {
    let start = |fake: Fake, max_running| spawn(move || Ok(fake), EngineConfig::new(max_running, 0)).err();
    let broken = |token| Fake { broken: Some(token), ..Fake::default() };
    assert!(matches!(start(broken(NO_NUMBER), 1), Some(StartError::Wrong)));
    assert!(matches!(start(broken(FAILS), 1), Some(StartError::Model(_))));
    assert!(matches!(start(broken(PANICS), 1), Some(StartError::Panicked)));
    assert!(matches!(start(Fake { forgetful: true, ..Fake::default() }, 1), Some(StartError::Wrong)));
    assert!(matches!(start(Fake::default(), 0), Some(StartError::NothingRunning)));
    assert!(start(Fake::default(), 1).is_none());
}

#[test]
fn a_request_shows_nothing_of_its_prompt() {
    assert_eq!(format!("{:?}", request(&[77], 5)), "GenerationRequest { max_new_tokens: 5, .. }");
}

#[test]
fn what_was_generated_is_not_printed() {
    let logprobs = Logprobs { chosen: -4.25, top: vec![(TokenId(31_337), -4.25)] };
    let token = Token { id: TokenId(31_337), logprobs: Some(Box::new(logprobs)) };
    let printed = format!("{:?} {token:?} {:?}", Event::Token(token.clone()), token.logprobs);
    assert!(!printed.contains("31337") && !printed.contains("4.25"), "{printed}");
}
