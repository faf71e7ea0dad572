//! What the embedded model writes, token by token, through the engine.
//!
//! The expectations are `transformers`' own greedy choice (`tests/vectors/gemma/make.py`).

use std::time::{Duration, Instant};

use codeseal::engine::{
    BackendChoice, Engine, EngineConfig, EngineError, Event, Finish, Generation, GenerationRequest, Handle,
    Sampling, open,
};
use codeseal::model::{ModelFiles, Quantize, TINY_MODEL_NAME};
use codeseal::protocol::Dek;
use codeseal::tokenizer::{TokenId, Tokenizer};
use serde::Deserialize;

use crate::harness::{ENDLESS, backend};

/// The implementations of the model.
const BACKENDS: [BackendChoice; 2] = [BackendChoice::Kernels, BackendChoice::Candle];

#[derive(Deserialize)]
struct Golden {
    prefix: String,
    suffix: Option<String>,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
}

fn goldens() -> Vec<Golden> {
    serde_json::from_str(include_str!("../vectors/gemma/golden.json")).unwrap()
}

fn engine(max_running: usize) -> (Handle, Engine) {
    engine_with(EngineConfig { backend: backend(), ..EngineConfig::new(max_running, 16) })
}

fn engine_with(config: EngineConfig) -> (Handle, Engine) {
    let config = EngineConfig { kv_cache_bytes: Some(64 << 20), ..config };
    let (handle, engine, _) = open(&ModelFiles::tiny(), TINY_MODEL_NAME, Quantize::None, config).unwrap();
    (handle, engine)
}

fn request(prompt: &[u32], max_new_tokens: usize, sampling: Sampling) -> GenerationRequest {
    GenerationRequest {
        prompt: prompt.iter().copied().map(TokenId).collect(),
        max_new_tokens,
        stop_ids: &[TokenId(1)],
        sampling,
        logprobs: None,
        namespace: Dek::generate().unwrap().namespace(),
        deadline: Instant::now() + Duration::from_secs(60),
    }
}

async fn tokens(mut generation: Generation) -> Result<(Vec<u32>, Finish), EngineError> {
    let mut tokens = Vec::new();
    loop {
        match generation.next().await.unwrap()? {
            Event::Started { .. } => {}
            Event::Token(token) => tokens.push(token.id.0),
            Event::Finished(finish) => return Ok((tokens, finish)),
        }
    }
}

#[tokio::test]
async fn greedy_completions_are_those_of_transformers() {
    for backend in BACKENDS {
        let (handle, _engine) = engine_with(EngineConfig { backend, ..EngineConfig::new(1, 16) });
        for golden in goldens() {
            let request = request(&golden.prompt, golden.tokens.len(), Sampling::GREEDY);
            let made = tokens(handle.submit(request).unwrap()).await;
            assert_eq!(made, Ok((golden.tokens, Finish::Length)), "{backend:?}");
        }
    }
}

#[test]
fn texts_are_encoded_and_decoded_as_by_transformers() {
    let tokenizer = Tokenizer::from_files(&ModelFiles::tiny()).unwrap();
    let encode = |text: &str| tokenizer.encode(text).unwrap().into_iter().map(|id| id.0).collect::<Vec<_>>();
    for golden in goldens() {
        let prompt = match &golden.suffix {
            None => [vec![2], encode(&golden.prefix)].concat(),
            Some(suffix) => {
                [vec![2, 67], encode(&golden.prefix), vec![69], encode(suffix), vec![68]].concat()
            }
        };
        assert_eq!(prompt, golden.prompt);
        let made: Vec<_> = golden.tokens.into_iter().map(TokenId).collect();
        assert_eq!(tokenizer.decode(&made).unwrap().expose(), &golden.text);
    }
}

#[tokio::test]
async fn neighbours_change_nothing() {
    let (handle, _engine) = engine(8);
    let goldens = goldens();
    let hot = Sampling { temperature: 1.5, top_k: Some(40), top_p: Some(0.9), seed: 3, ..Sampling::GREEDY };
    let mut noise = Vec::new();
    let mut generations = Vec::new();
    for (number, golden) in goldens.iter().cycle().take(6).enumerate() {
        generations.push(handle.submit(request(&golden.prompt, 48, Sampling::GREEDY)).unwrap());
        noise.push(handle.submit(request(&vec![500; 30 * number + 1], 20, hot)).unwrap());
    }
    for (generation, golden) in generations.into_iter().zip(goldens.iter().cycle()) {
        assert_eq!(tokens(generation).await.unwrap().0, golden.tokens);
    }
    drop(noise);
}

#[tokio::test]
async fn a_seed_repeats_itself_whatever_else_runs() {
    let (handle, _engine) = engine(4);
    let prompt = &goldens()[2].prompt; // the one where the model is least sure
    for (top_k, top_p) in [(None, None), (Some(50), None), (None, Some(0.8)), (Some(50), Some(0.8))] {
        let sampling = |seed| Sampling { temperature: 0.9, top_k, top_p, seed, ..Sampling::GREEDY };
        let [first, again, other] =
            [1, 1, 2].map(|seed| handle.submit(request(prompt, 32, sampling(seed))).unwrap());
        let first = tokens(first).await.unwrap();
        assert_eq!(first, tokens(again).await.unwrap());
        assert_ne!(first, tokens(other).await.unwrap());
    }
}

#[tokio::test]
async fn a_token_that_stops_is_not_shown() {
    let (handle, engine) = engine(1);
    let golden = &goldens()[0];
    let mut stopped = request(&golden.prompt, 48, Sampling::GREEDY);
    stopped.stop_ids = &[TokenId(616), TokenId(1)];
    let before: Vec<_> = golden.tokens.iter().copied().take_while(|&id| id != 616).collect();
    assert!(before.len() < golden.tokens.len(), "choose another stop token");
    assert_eq!(tokens(handle.submit(stopped).unwrap()).await, Ok((before, Finish::Stop)));
    tokio::task::spawn_blocking(|| engine.shutdown()).await.unwrap().unwrap();
}

/// Prompts that are long, that repeat themselves, that begin alike: where steps, draft tokens and the cache could go wrong.
fn difficult() -> Vec<Vec<u32>> {
    let code: Vec<u32> = goldens().iter().flat_map(|golden| golden.prompt[1..].to_vec()).collect();
    let long: Vec<u32> = [2].into_iter().chain(code.iter().copied().cycle().take(330)).collect();
    let mut prompts: Vec<_> = goldens().into_iter().map(|golden| golden.prompt).collect();
    prompts.extend([33, 64, 65].map(|length| long[..length].to_vec()));
    prompts.push(long);
    prompts
}

async fn all(handle: &Handle, sampling: Sampling, together: bool) -> Vec<Vec<u32>> {
    let namespace = Dek::generate().unwrap().namespace();
    let submit = |prompt: &Vec<u32>| {
        let mut request = request(prompt, 20, sampling);
        request.namespace = namespace;
        handle.submit(request).unwrap()
    };
    let mut made = Vec::new();
    if together {
        let generations: Vec<_> = difficult().iter().map(submit).collect();
        for generation in generations {
            made.push(tokens(generation).await.unwrap().0);
        }
    } else {
        for prompt in difficult() {
            made.push(tokens(submit(&prompt)).await.unwrap().0);
        }
    }
    made
}

#[tokio::test]
async fn chunks_drafts_cache_and_batch_change_no_token_of_the_kernels() {
    nothing_changes_a_token(BackendChoice::Kernels).await;
}

#[tokio::test]
async fn chunks_drafts_cache_and_batch_change_no_token_of_candle() {
    nothing_changes_a_token(BackendChoice::Candle).await;
}

async fn nothing_changes_a_token(backend: BackendChoice) {
    let plain = EngineConfig {
        step_tokens: 1000,
        draft_tokens: 0,
        prefix_cache: false,
        backend,
        ..EngineConfig::new(1, 16)
    };
    // A seed whose texts repeat themselves, so that some draft tokens are accepted.
    let hot = Sampling { temperature: 0.8, top_p: Some(0.95), seed: 1, ..Sampling::GREEDY };
    let (handle, _engine) = engine_with(plain);
    for sampling in [Sampling::GREEDY, hot] {
        let expected = all(&handle, sampling, false).await;
        for (name, together, config) in [
            ("in pieces", false, EngineConfig { step_tokens: 7, ..plain }),
            ("drafted", false, EngineConfig { draft_tokens: 7, ..plain }),
            ("cached", false, EngineConfig { prefix_cache: true, ..plain }),
            ("together", true, EngineConfig { max_running: 16, ..plain }),
            ("all at once", true, EngineConfig { step_tokens: 40, backend, ..EngineConfig::new(16, 16) }),
        ] {
            let (handle, _engine) = engine_with(config);
            for round in 0..2 {
                let made = all(&handle, sampling, together).await;
                assert!(made == expected, "{name}, {round}: {sampling:?}");
            }
            let load = handle.load();
            assert_eq!(load.kv_blocks_used, 0, "{name}");
            assert_eq!(load.draft_tokens > 0, config.draft_tokens > 0, "{name}");
            assert!(load.accepted_tokens > 0 || config.draft_tokens == 0, "{name}");
        }
    }
}

#[tokio::test]
async fn the_same_prompt_under_another_dek_finds_nothing_in_the_cache() {
    let (handle, _engine) = engine(4);
    let prompt = difficult().pop().unwrap();
    let hits = |handle: &Handle| handle.load().prefix_hits;
    let mut namespaces = [(), ()].map(|()| Dek::generate().unwrap().namespace()).into_iter();
    for round in 0..2 {
        let namespace = namespaces.next().unwrap();
        for hit in [0, prompt.len() as u64 - 1] {
            let before = hits(&handle);
            let mut request = request(&prompt, 1, Sampling::GREEDY);
            request.namespace = namespace;
            tokens(handle.submit(request).unwrap()).await.unwrap();
            assert_eq!(hits(&handle) - before, hit, "{round}");
        }
    }
}

#[tokio::test]
async fn likelihoods_come_with_the_tokens_when_they_are_asked_for() {
    let (handle, _engine) = engine(1);
    let golden = &goldens()[0];
    let mut asked = request(&golden.prompt, 8, Sampling::GREEDY);
    asked.logprobs = Some(3);
    let mut generation = handle.submit(asked).unwrap();
    let mut seen = 0;
    while let Some(event) = generation.next().await {
        let Event::Token(token) = event.unwrap() else { continue };
        let logprobs = token.logprobs.unwrap();
        assert_eq!(logprobs.top.len(), 3);
        assert_eq!(logprobs.top[0], (token.id, logprobs.chosen), "greedy takes the most likely token");
        assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1) && logprobs.chosen <= 0.0);
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[tokio::test]
async fn the_endless_prompt_has_no_end_in_any_layout() {
    let (handle, _engine) = engine(1);
    let tokenizer = Tokenizer::from_files(&ModelFiles::tiny()).unwrap();
    let encode = |text: &str| tokenizer.encode(text).unwrap().into_iter().map(|TokenId(id)| id).collect();
    let (line, after): (Vec<u32>, Vec<u32>) = (encode(ENDLESS), encode("\n"));
    let plain = [vec![2], line.clone()].concat();
    let before = [&[2, 67], &line[..], &[69], &after, &[68]].concat();
    let beginning = [&[2, 67, 69], &after[..], &[68], &line].concat();
    for (prompt, count) in [(plain, 8000), (before, 4000), (beginning, 4000)] {
        let generation = handle.submit(request(&prompt, count, Sampling::GREEDY)).unwrap();
        let (tokens, finish) = tokens(generation).await.unwrap();
        assert_eq!((tokens.len(), finish), (count, Finish::Length), "{prompt:?}");
    }
}
