//! The engine on a device: the scheduler, the cache and the steps that a GPU gets, on the emulator.

use std::time::{Duration, Instant};

use codeseal::engine::{
    Engine, EngineConfig, EngineError, Event, Finish, Generation, GenerationRequest, Handle, Sampling,
    StartError, start, start_on,
};
use codeseal::model::{ModelFiles, Quantize, TINY_MODEL_NAME};
use codeseal::protocol::{Dek, Namespace};
use codeseal::tokenizer::TokenId;
use codeseal_kernels::cuda::DeviceError;
use codeseal_kernels::kv::BLOCK_TOKENS;
use serde::Deserialize;

use crate::toy::{CONTEXT, LAYOUT, Weights};
use codeseal_emulator::device::{Emulator, Traits};

/// What `transformers` continues the embedded model's prompts with.
#[derive(Deserialize)]
struct Golden {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
}

const HOT: Sampling = Sampling { temperature: 0.8, top_p: Some(0.95), seed: 11, ..Sampling::GREEDY };

pub(crate) fn request(
    prompt: &[u32],
    max_new_tokens: usize,
    sampling: Sampling,
    namespace: Namespace,
) -> GenerationRequest {
    GenerationRequest {
        prompt: prompt.iter().copied().map(TokenId).collect(),
        max_new_tokens,
        stop_ids: &[TokenId(1)],
        sampling,
        logprobs: None,
        namespace,
        deadline: Instant::now() + Duration::from_secs(600),
    }
}

pub(crate) fn namespace() -> Namespace {
    Dek::generate().unwrap().namespace()
}

pub(crate) async fn tokens(mut generation: Generation) -> Result<(Vec<u32>, Finish), EngineError> {
    let mut tokens = Vec::new();
    loop {
        match generation.next().await.unwrap()? {
            Event::Started { .. } => {}
            Event::Token(token) => tokens.push(token.id.0),
            Event::Finished(finish) => return Ok((tokens, finish)),
        }
    }
}

pub(crate) fn on_emulator(
    files: &ModelFiles,
    quantize: Quantize,
    traits: Traits,
    config: EngineConfig,
) -> Result<(Handle, Engine), StartError> {
    start_on(move || Ok(Emulator::with(traits)), files.clone(), "toy", quantize, config)
}

pub(crate) fn config(max_running: usize) -> EngineConfig {
    EngineConfig { step_tokens: 64, ..EngineConfig::new(max_running, 16) }
}

#[tokio::test]
async fn greedy_completions_are_those_of_transformers() {
    let goldens: Vec<Golden> = serde_json::from_str(include_str!("../vectors/gemma/golden.json")).unwrap();
    // Of an f16 device; bf16 keys and values are rounded more, and may tip a close choice.
    let traits = Traits { has_bf16: false, free_bytes: 64 << 20, ..Traits::SOUND };
    let config = EngineConfig { kv_cache_bytes: Some(8 << 20), ..config(4) };
    let (handle, _engine) = start_on(
        move || Ok(Emulator::with(traits)),
        ModelFiles::tiny(),
        TINY_MODEL_NAME,
        Quantize::None,
        config,
    )
    .unwrap();
    assert_eq!(handle.model_name(), TINY_MODEL_NAME);
    let submit = |golden: &Golden| {
        let length = golden.tokens.len().min(12);
        let request = request(&golden.prompt, length, Sampling::GREEDY, namespace());
        (handle.submit(request).unwrap(), golden.tokens[..length].to_vec())
    };
    let generations: Vec<_> = goldens.iter().map(submit).collect();
    for (generation, expected) in generations {
        assert_eq!(tokens(generation).await, Ok((expected, Finish::Length)));
    }
}

/// Prompts that are long, that repeat themselves, that begin alike.
fn prompts() -> Vec<Vec<u32>> {
    let long: Vec<u32> = (0..75).map(|number| 2 + number % 9 * 7).collect();
    let mut prompts: Vec<_> = [1, 32, 33, 65].map(|length| long[..length].to_vec()).into();
    prompts.push(long);
    prompts
}

async fn all(handle: &Handle, sampling: Sampling, together: bool, namespace: Namespace) -> Vec<Vec<u32>> {
    let submit = |prompt: &Vec<u32>| handle.submit(request(prompt, 10, sampling, namespace)).unwrap();
    let mut made = Vec::new();
    if together {
        let generations: Vec<_> = prompts().iter().map(submit).collect();
        for generation in generations {
            made.push(tokens(generation).await.unwrap().0);
        }
    } else {
        for prompt in prompts() {
            made.push(tokens(submit(&prompt)).await.unwrap().0);
        }
    }
    made
}

#[tokio::test]
async fn chunks_drafts_cache_and_batch_change_no_token() {
    let (_dir, files) = Weights::random(9).files();
    let plain = EngineConfig { step_tokens: 200, draft_tokens: 0, prefix_cache: false, ..config(1) };
    let start = |config| on_emulator(&files, Quantize::None, Traits::SOUND, config).unwrap();
    let (handle, _engine) = start(plain);
    for sampling in [Sampling::GREEDY, HOT] {
        let expected = all(&handle, sampling, false, namespace()).await;
        for (name, together, config) in [
            ("in pieces", false, EngineConfig { step_tokens: 7, ..plain }),
            ("drafted", false, EngineConfig { draft_tokens: 7, ..plain }),
            ("cached", false, EngineConfig { prefix_cache: true, ..plain }),
            ("together", true, EngineConfig { max_running: 5, ..plain }),
            ("all at once", true, EngineConfig { step_tokens: 40, ..config(5) }),
        ] {
            let (handle, _engine) = start(config);
            let namespace = namespace();
            // What the first round leaves in the cache, the second finds.
            for round in 0..if name == "cached" { 2 } else { 1 } {
                let made = all(&handle, sampling, together, namespace).await;
                assert!(made == expected, "{name}, {round}: {sampling:?}");
            }
            let load = handle.load();
            assert_eq!(load.kv_blocks_used, 0, "{name}");
            assert_eq!(load.draft_tokens > 0, config.draft_tokens > 0, "{name}");
            assert!(load.prefix_hits > 0 || name != "cached");
        }
    }
}

#[tokio::test]
async fn answers_are_those_of_the_cpu() {
    let weights = Weights::random(10);
    let (_dir, files) = weights.files();
    for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
        let traits = Traits { has_bf16: false, ..Traits::SOUND };
        let (device, _engine) = on_emulator(&files, quantize, traits, config(5)).unwrap();
        let (cpu, _other) = start(weights.on_cpu(quantize), config(5)).unwrap();
        let (found, expected) = (
            all(&device, Sampling::GREEDY, true, namespace()).await,
            all(&cpu, Sampling::GREEDY, true, namespace()).await,
        );
        if quantize == Quantize::None {
            assert_eq!(found, expected);
        } else {
            // The CPU rounds activations to eight bits, the device does not: most choices are not that close.
            let same = found.iter().zip(&expected).filter(|(a, b)| a[0] == b[0]).count();
            assert!(same + 1 >= expected.len(), "{found:?} instead of {expected:?}");
        }
    }
}

/// The host samples for requests with log probabilities, the device for all others.
#[tokio::test]
async fn a_seed_gives_the_same_tokens_on_host_and_device() {
    let weights = Weights::random(15);
    let (_dir, files) = weights.files();
    let traits = Traits { has_bf16: false, ..Traits::SOUND };
    let (device, _engine) = on_emulator(&files, Quantize::None, traits, config(5)).unwrap();
    let (cpu, _other) = start(weights.on_cpu(Quantize::None), config(5)).unwrap();
    for sampling in [
        HOT,
        Sampling { temperature: 1.5, top_p: None, ..HOT },
        Sampling { top_k: Some(5), top_p: None, min_p: Some(0.1), ..HOT },
    ] {
        let mut made = Vec::new();
        for (handle, logprobs) in [(&device, None), (&device, Some(0)), (&cpu, None)] {
            let submit = |prompt: &Vec<u32>| {
                let mut request = request(prompt, 10, sampling, namespace());
                request.logprobs = logprobs;
                handle.submit(request).unwrap()
            };
            let generations: Vec<_> = prompts().iter().map(submit).collect();
            let mut answers = Vec::new();
            for generation in generations {
                answers.push(tokens(generation).await.unwrap().0);
            }
            made.push(answers);
        }
        assert_eq!(made[0], made[1], "{sampling:?}");
        assert_eq!(made[0], made[2], "{sampling:?}");
    }
}

#[tokio::test]
async fn likelihoods_are_told_and_penalties_heeded() {
    let weights = Weights::random(11);
    let (_dir, files) = weights.files();
    let traits = Traits { has_bf16: false, ..Traits::SOUND };
    let (device, _engine) = on_emulator(&files, Quantize::None, traits, config(2)).unwrap();
    let (cpu, _other) = start(weights.on_cpu(Quantize::None), config(2)).unwrap();
    let prompt = &prompts()[2];
    let penalty = Sampling { repetition_penalty: 1.3, ..Sampling::GREEDY };
    let mut made = Vec::new();
    for handle in [&device, &cpu] {
        let mut asked = request(prompt, 4, Sampling::GREEDY, namespace());
        asked.logprobs = Some(2);
        let mut generation = handle.submit(asked).unwrap();
        let mut likelihoods = Vec::new();
        while let Some(event) = generation.next().await {
            let Event::Token(token) = event.unwrap() else { continue };
            likelihoods.push((token.id, token.logprobs.unwrap().chosen));
        }
        let penalised =
            tokens(handle.submit(request(prompt, 8, penalty, namespace())).unwrap()).await.unwrap();
        made.push((likelihoods, penalised));
    }
    assert_eq!(made[0].1, made[1].1);
    assert_eq!(made[0].0.len(), 4);
    for (found, expected) in made[0].0.iter().zip(&made[1].0) {
        assert_eq!(found.0, expected.0);
        assert!((found.1 - expected.1).abs() < 0.05, "{found:?} instead of {expected:?}");
    }
}

#[tokio::test]
async fn a_device_that_fails_in_service_ends_the_engine_and_says_why() {
    let (_dir, files) = Weights::random(12).files();
    let whole = on_emulator(&files, Quantize::None, Traits::SOUND, config(1));
    assert!(whole.is_ok());
    // How many launches a start takes is not known here: one that is just enough is looked for.
    let mut lives_for = 1 << 9;
    let (handle, _engine) = loop {
        match on_emulator(&files, Quantize::None, Traits { lives_for, ..Traits::SOUND }, config(1)) {
            Ok(started) => break started,
            Err(StartError::Device(DeviceError::Failed(_))) => lives_for += 1 << 7,
            Err(other) => panic!("{other}"),
        }
    };
    let generation = handle.submit(request(&[2, 9, 16], 100, Sampling::GREEDY, namespace())).unwrap();
    assert_eq!(tokens(generation).await, Err(EngineError::Failed));
    assert_eq!(handle.failure().as_deref(), Some("the device failed: as told"));
    assert!(handle.is_stopped());
}

#[test]
fn a_device_that_cannot_serve_is_refused_with_the_reason() {
    let (_dir, files) = Weights::random(13).files();
    let least = Traits { free_bytes: 1 << 20, ..Traits::SOUND };
    let error = on_emulator(&files, Quantize::None, least, config(1)).err().unwrap();
    assert!(matches!(error, StartError::Device(DeviceError::OutOfMemory(_))), "{error}");
    let absent = || Err::<Emulator, _>(DeviceError::NoDevice("as told".to_owned()));
    let error = start_on(absent, files.clone(), "toy", Quantize::None, config(1)).err().unwrap();
    assert_eq!(error.to_string(), "no device: as told");
}

#[test]
fn memory_is_what_the_device_has_free_or_what_was_asked_for() {
    let (_dir, files) = Weights::random(14).files();
    let block_bytes = 2 * LAYOUT.block_numbers() as u64;
    let context_blocks = (CONTEXT / BLOCK_TOKENS) as u64;
    for (free_bytes, kv_cache_bytes, least, most) in [
        // No more than is of use.
        (1 << 40, None, 2 * context_blocks, 2 * context_blocks),
        (1 << 40, Some(50 * block_bytes), 50, 50),
        // Steps take their part first.
        (4 << 20, None, context_blocks, 2 * context_blocks),
    ] {
        let traits = Traits { free_bytes, ..Traits::SOUND };
        let config = EngineConfig { kv_cache_bytes, ..config(2) };
        let (handle, engine) = on_emulator(&files, Quantize::None, traits, config).unwrap();
        // The numbers are there after the first step.
        let generation = handle.submit(request(&[2, 9], 1, Sampling::GREEDY, namespace())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(tokens(generation)).is_ok());
        let blocks = handle.load().kv_blocks;
        assert!((least..=most).contains(&blocks), "{blocks}");
        assert_eq!(handle.context_length(), CONTEXT);
        engine.shutdown().unwrap();
    }
}
