//! The scheduler over a model that is a rule, and a memory that is checked: what a sequence reads must be what was
//! written for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::engine::Sampling;
use crate::protocol::{Dek, Namespace};

const LIMITS: SchedulerConfig =
    SchedulerConfig { step_tokens: 40, draft_tokens: 7, prefix_cache: true, keep_generated: true };
const STOP: TokenId = TokenId(99);

/// A request, and the tokens that it got.
#[derive(Debug)]
struct TestRequest {
    request: GenerationRequest,
    prompt: Vec<TokenId>,
    /// Whether the output repeats itself, so that draft tokens are accepted.
    repeats: bool,
    made: Vec<TokenId>,
}

/// A scheduler, and what its model has written into each block.
struct World {
    scheduler: Scheduler<TestRequest>,
    memory: HashMap<BlockId, [Option<TokenId>; BLOCK_TOKENS]>,
    /// How many tokens each slice of each step read.
    steps: Vec<Vec<usize>>,
}

/// The token after `text`, the same in any batch: mostly one of a few tokens, sometimes the stop token.
fn rule(text: &[TokenId], repeats: bool) -> TokenId {
    let last = text.last().map_or(0, |token| token.0);
    let sum = text.iter().fold(7u32, |sum, token| sum.wrapping_mul(31).wrapping_add(token.0));
    match repeats {
        true if text.len().is_multiple_of(11) => TokenId(sum % 5),
        true => TokenId((last + 1) % 6),
        false if sum.is_multiple_of(53) => STOP,
        false => TokenId(sum % 90),
    }
}

/// The expected output of a request.
fn expected(job: &TestRequest) -> (Vec<TokenId>, Finish) {
    let mut text = job.prompt.clone();
    while text.len() < job.prompt.len() + job.request.max_new_tokens {
        let token = rule(&text, job.repeats);
        if token == STOP {
            return (text.split_off(job.prompt.len()), Finish::Stop);
        }
        text.push(token);
    }
    (text.split_off(job.prompt.len()), Finish::Length)
}

fn job(prompt: &[u32], max_new_tokens: usize, namespace: Namespace) -> TestRequest {
    let prompt: Vec<_> = prompt.iter().copied().map(TokenId).collect();
    let request = GenerationRequest {
        prompt: prompt.clone(),
        max_new_tokens,
        stop_ids: &[STOP],
        sampling: Sampling::GREEDY,
        logprobs: None,
        namespace,
        deadline: Instant::now() + Duration::from_secs(60),
    };
    TestRequest { request, prompt, repeats: false, made: Vec::new() }
}

fn namespace() -> Namespace {
    Dek::generate().unwrap().namespace()
}

impl World {
    fn new(limits: SchedulerConfig, blocks: usize) -> Self {
        Self {
            scheduler: Scheduler::new(limits, BlockPool::new(blocks)),
            memory: HashMap::new(),
            steps: Vec::new(),
        }
    }

    fn admit(&mut self, job: TestRequest) -> Result<(), TestRequest> {
        self.scheduler.admit(job, |job| &mut job.request).map(|_| ())
    }

    /// One step. Returns the requests that it ended.
    fn step(&mut self) -> Vec<(TestRequest, Finish)> {
        self.scheduler.plan();
        for block in self.scheduler.take_uncleared() {
            self.memory.remove(&block);
        }
        let mut read = Vec::new();
        for slice in self.scheduler.batch() {
            read.push(slice.tokens.len());
            for (position, &token) in (slice.position..).zip(slice.tokens) {
                let block = slice.blocks[position / BLOCK_TOKENS];
                self.memory.entry(block).or_insert([None; BLOCK_TOKENS])[position % BLOCK_TOKENS] =
                    Some(token);
            }
        }
        self.steps.push(read);
        let memory = &self.memory;
        self.scheduler.stepped(|sequence, rows| {
            if sequence.only_read() {
                return Some(Finish::Length);
            }
            for _ in rows {
                // What the model would see: its memory up to the last settled token.
                let seen: Vec<_> = (0..sequence.text().len())
                    .map(|position| {
                        let block = sequence.table.blocks()[position / BLOCK_TOKENS];
                        memory[&block][position % BLOCK_TOKENS].expect("it was written")
                    })
                    .collect();
                assert!(seen == sequence.text(), "the memory is another text's");
                let token = rule(&seen, sequence.task.repeats);
                let next = sequence.accept(token);
                if next != Next::Finished(Finish::Stop) {
                    sequence.task.made.push(token);
                }
                match next {
                    Next::Row => {}
                    Next::Step => return None,
                    Next::Finished(finish) => return Some(finish),
                }
            }
            None
        })
    }

    /// Steps until all requests have ended.
    fn finish(&mut self) -> Vec<(TestRequest, Finish)> {
        let mut ended = Vec::new();
        while self.scheduler.running() > 0 {
            ended.extend(self.step());
            assert!(self.steps.len() < 10_000, "it does not end");
        }
        ended
    }
}

#[test]
fn decoding_continues_while_prompts_are_read_in_order_of_arrival() {
    let mut world = World::new(LIMITS, 100);
    assert!(world.admit(job(&[1], 4, namespace())).is_ok());
    world.step();
    for length in [70, 20] {
        assert!(world.admit(job(&vec![2; length], 2, namespace())).is_ok());
    }
    world.finish();
    assert_eq!(world.steps[..4], [vec![1], vec![1, 39], vec![1, 31, 8], vec![1, 1, 12]]);
}

#[test]
fn a_step_of_one_token_still_ends() {
    let mut world = World::new(SchedulerConfig { step_tokens: 1, ..LIMITS }, 100);
    for _ in 0..3 {
        assert!(world.admit(job(&[1, 2, 3, 4], 3, namespace())).is_ok());
    }
    assert_eq!(world.finish().len(), 3);
}

#[test]
fn a_request_that_does_not_fit_is_returned_unchanged_and_fits_later() {
    let mut world = World::new(LIMITS, 4);
    assert!(world.admit(job(&[1; 60], 30, namespace())).is_ok());
    let refused = world.admit(job(&[2; 60], 30, namespace())).expect_err("one block is left");
    assert_eq!(refused.request.prompt, refused.prompt);
    assert!(world.admit(job(&[3; 20], 12, namespace())).is_ok());
    world.finish();
    assert_eq!(world.scheduler.held_blocks(), 0);
    assert!(world.admit(refused).is_ok());
    assert_eq!(world.finish().len(), 1);
}

#[test]
fn what_was_read_is_not_read_again_in_the_same_namespace_only() {
    let (mine, yours) = (namespace(), namespace());
    let text: Vec<u32> = (0..80).map(|index| index % 70).collect();
    let read = |world: &mut World, namespace, text: &[u32]| {
        assert!(world.admit(job(text, 1, namespace)).is_ok());
        let before = world.steps.len();
        world.finish();
        world.steps[before..].iter().flatten().sum::<usize>()
    };
    let mut world = World::new(LIMITS, 100);
    assert_eq!(read(&mut world, mine, &text), 80);
    assert_eq!(read(&mut world, mine, &text), 1, "the last block was filled in part");
    assert_eq!(read(&mut world, mine, &text[..64]), 32, "the last token must be read");
    assert_eq!(read(&mut world, yours, &text), 80);
    let Counters { prefix_queries, prefix_hits, .. } = world.scheduler.counters();
    assert_eq!((prefix_queries, prefix_hits), (80 + 80 + 64 + 80, 79 + 32));
    assert_eq!(world.scheduler.counters().steps, world.steps.len() as u64);

    let mut without = World::new(SchedulerConfig { prefix_cache: false, ..LIMITS }, 100);
    assert_eq!([read(&mut without, mine, &text), read(&mut without, mine, &text)], [80, 80]);
}

#[test]
fn what_was_generated_is_found_by_the_prompt_that_goes_on_from_it() {
    let (mut world, mine) = (World::new(LIMITS, 100), namespace());
    assert!(world.admit(TestRequest { repeats: true, ..job(&[1, 2, 3], 70, mine) }).is_ok());
    let (first, _) = world.finish().remove(0);
    let text: Vec<u32> = first.prompt.iter().chain(&first.made).map(|token| token.0).collect();
    assert_eq!(text.len(), 73);
    assert!(world.admit(job(&text, 1, mine)).is_ok());
    assert_eq!(world.scheduler.counters().prefix_hits, 72);
}

#[test]
fn where_what_was_generated_is_not_kept_only_prompts_are_found() {
    let (mut world, mine) =
        (World::new(SchedulerConfig { keep_generated: false, ..LIMITS }, 100), namespace());
    assert!(world.admit(TestRequest { repeats: true, ..job(&[3; 40], 70, mine) }).is_ok());
    let (first, _) = world.finish().remove(0);
    let text: Vec<u32> = first.prompt.iter().chain(&first.made).map(|token| token.0).collect();
    for hits in [40, 40 + 109] {
        assert!(world.admit(job(&text, 1, mine)).is_ok());
        world.finish();
        assert_eq!(world.scheduler.counters().prefix_hits, hits);
    }
}

#[test]
fn accepted_draft_tokens_save_steps() {
    let steps = |draft_tokens| {
        let mut world = World::new(SchedulerConfig { draft_tokens, ..LIMITS }, 100);
        assert!(world.admit(TestRequest { repeats: true, ..job(&[1, 2, 3], 200, namespace()) }).is_ok());
        let (job, finish) = world.finish().remove(0);
        assert_eq!((job.made.clone(), finish), expected(&job));
        let Counters { drafted, accepted, .. } = world.scheduler.counters();
        assert!(accepted <= drafted && (drafted > 0) == (draft_tokens > 0));
        assert_eq!(
            200 - world.steps.len() as u64,
            accepted.min(199),
            "each accepted draft token saves a step"
        );
        world.steps.len()
    };
    assert_eq!(steps(0), 200);
    assert!(steps(7) < 100);
}

#[test]
fn nothing_to_generate_is_read_all_the_same() {
    let (mut world, mine) = (World::new(LIMITS, 100), namespace());
    assert!(world.admit(job(&[5; 70], 0, mine)).is_ok());
    let ended = world.finish();
    assert_eq!((ended[0].0.made.len(), ended[0].1), (0, Finish::Length));
    assert_eq!(world.steps.iter().flatten().sum::<usize>(), 70);
    assert!(world.admit(job(&[5; 70], 3, mine)).is_ok());
    assert_eq!(world.scheduler.counters().prefix_hits, 69);
}

#[test]
fn a_request_that_is_ended_between_steps_releases_its_blocks() {
    let mut world = World::new(LIMITS, 8);
    for _ in 0..2 {
        assert!(world.admit(job(&[1; 60], 60, namespace())).is_ok());
    }
    world.step();
    let left = world.scheduler.end(|job| (job.prompt.len() == 60).then_some(()));
    assert_eq!((left.len(), world.scheduler.running(), world.scheduler.held_blocks()), (2, 0, 0));
}

#[test]
fn a_text_that_goes_on_from_a_cancelled_one_finds_what_was_read_of_it() {
    let (mut world, mine) = (World::new(LIMITS, 100), namespace());
    let text: Vec<u32> = (0..70).collect();
    assert!(world.admit(job(&text[..60], 60, mine)).is_ok());
    world.step();
    // 40 tokens of 60 were read.
    world.scheduler.end(|_| Some(()));
    assert!(world.admit(job(&text, 1, mine)).is_ok());
    assert_eq!(world.scheduler.counters().prefix_hits, 40);
    world.finish();
    // After a step that failed nothing is kept but the whole blocks of the steps before.
    assert!(world.admit(job(&[&text[..64], &[80; 60]].concat(), 1, mine)).is_ok());
    world.step();
    world.scheduler.fail(|| ());
    let before = world.scheduler.counters().prefix_hits;
    assert!(world.admit(job(&[&text[..64], &[80; 60]].concat(), 1, mine)).is_ok());
    assert_eq!(world.scheduler.counters().prefix_hits - before, 96);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In any batch, each request gets what the rule gives for its text; and in the end no block is held.
    #[test]
    fn each_request_gets_the_same_tokens_as_alone(
        requests in prop::collection::vec(
            (prop::collection::vec(0u32..4, 1..100), 0usize..40, 0usize..3, any::<bool>(), 0usize..12), 1..12,
        ),
        step_tokens in 1usize..80, draft_tokens in 0usize..9, prefix_cache: bool, keep_generated: bool,
        blocks in 5usize..24,
    ) {
        let namespaces = [namespace(), namespace(), namespace()];
        let mut world = World::new(SchedulerConfig { step_tokens, draft_tokens, prefix_cache, keep_generated }, blocks);
        let mut ended = Vec::new();
        for (prompt, max_new_tokens, whose, repeats, steps) in &requests {
            let mut next = TestRequest { repeats: *repeats, ..job(prompt, *max_new_tokens, namespaces[*whose]) };
            while let Err(refused) = world.admit(next) {
                prop_assert!(world.scheduler.running() > 0, "an empty engine has room");
                ended.extend(world.step());
                next = refused;
            }
            for _ in 0..*steps {
                ended.extend(world.step());
            }
        }
        ended.extend(world.finish());
        prop_assert_eq!(ended.len(), requests.len());
        for (job, finish) in &ended {
            prop_assert_eq!(&(job.made.clone(), *finish), &expected(job));
        }
        prop_assert_eq!(world.scheduler.held_blocks(), 0);
        let widest = world.steps.iter().map(|step| step.iter().sum::<usize>()).max();
        prop_assert!(widest <= Some(step_tokens.max(1) + requests.len() + FREE_ROWS));
    }
}
