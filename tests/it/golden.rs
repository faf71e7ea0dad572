//! What the embedded model writes, token by token, through the engine.
//!
//! The expectations are `transformers`' own greedy choice (`tests/vectors/gemma/make.py`).

use std::time::{Duration, Instant};

use codeseal::engine::{
    Engine, EngineConfig, EngineError, Event, Finish, Generation, GenerationRequest, Handle, Sampling, start,
};
use codeseal::model::{Model, ModelFiles, Quantize, TINY_MODEL_NAME};
use codeseal::protocol::Dek;
use codeseal::tokenizer::{TokenId, Tokenizer};
use serde::Deserialize;

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
    let model = Model::from_files(&ModelFiles::tiny(), TINY_MODEL_NAME, Quantize::None, |_, _| {}).unwrap();
    start(model, EngineConfig { kv_cache_bytes: Some(64 << 20), ..EngineConfig::new(max_running, 16) })
        .unwrap()
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
            Event::Started => {}
            Event::Token(token) => tokens.push(token.id.0),
            Event::Finished(finish) => return Ok((tokens, finish)),
        }
    }
}

#[tokio::test]
async fn greedy_completions_are_those_of_transformers() {
    let (handle, _engine) = engine(1);
    for golden in goldens() {
        let generation =
            handle.submit(request(&golden.prompt, golden.tokens.len(), Sampling::GREEDY)).unwrap();
        assert_eq!(tokens(generation).await, Ok((golden.tokens, Finish::Length)));
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
    let hot = Sampling { temperature: 1.5, top_k: Some(40), top_p: Some(0.9), seed: 3 };
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
        let sampling = |seed| Sampling { temperature: 0.9, top_k, top_p, seed };
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
