//! `--backend auto` on a device: the kernels serve if they agree with candle, candle if not.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use codeseal::engine::{
    BackendKind, Engine, EngineConfig, EngineParts, Finish, Handle, OpenError, Sampling, StartError,
    start_candle, start_witnessed,
};
use codeseal::model::{ModelFiles, Place, Quantize, TINY_MODEL_NAME};
use codeseal::server::{ModelOrigin, Service};
use codeseal::telemetry::{self, LogFormat, LogLevel};
use codeseal::tokenizer::Tokenizer;
use codeseal_kernels::cuda::DeviceError;
use safetensors::SafeTensors;
use serde_json::json;

use crate::engine::{config, namespace, request, tokens};
use crate::harness::{Server, World, http};
use crate::toy::Weights;
use codeseal_emulator::device::{Emulator, Traits};

/// A kernel of every step that leaves its part undone.
const FAULTY: Traits = Traits { idle: Some("combine_bf16"), ..Traits::SOUND };

/// The log of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    telemetry::init_to(LogFormat::Text, LogLevel::Info, move || writer.clone()).unwrap();
    log
});

/// Whether there is a line with all of `parts`. Tests run at the same time, so there may be others between.
fn logged(parts: &[&str]) -> bool {
    let log = String::from_utf8(LOG.0.lock().unwrap().clone()).unwrap();
    log.lines().any(|line| parts.iter().all(|part| line.contains(part)))
}

fn witnessed(files: &ModelFiles, quantize: Quantize, traits: Traits) -> Result<(Handle, Engine), StartError> {
    LazyLock::force(&LOG);
    start_witnessed(
        move || Ok(Emulator::with(traits)),
        Place::cpu().unwrap(),
        files,
        "toy",
        quantize,
        config(2),
    )
}

async fn answer(handle: &Handle) -> Vec<u32> {
    let prompt: Vec<u32> = (0..40).map(|number| 2 + number % 9 * 7).collect();
    let generation = handle.submit(request(&prompt, 12, Sampling::GREEDY, namespace())).unwrap();
    let (tokens, finish) = tokens(generation).await.unwrap();
    assert_eq!(finish, Finish::Length);
    tokens
}

#[tokio::test]
async fn sound_kernels_serve() {
    let (_dir, files) = Weights::random(21).files();
    for (quantize, has_bf16) in [
        (Quantize::None, true),
        (Quantize::None, false),
        (Quantize::Q8_0, true),
        (Quantize::Q4K, true),
        (Quantize::Q4K, false),
    ] {
        let traits = Traits { has_bf16, ..Traits::SOUND };
        let (handle, _engine) = witnessed(&files, quantize, traits).unwrap();
        let platform = handle.platform();
        assert_eq!(platform.backend, BackendKind::Kernels, "{quantize:?}, {has_bf16}: {platform:?}");
        assert!(platform.difference.is_some_and(|difference| difference > 0.0), "{platform:?}");
        println!("{quantize:?}, {has_bf16}: {:?}", platform.difference);
        assert_eq!(platform.device, "cuda the emulator");
    }
    assert!(logged(&[" backend_chosen ", "backend=kernels", "reason=agreement", "difference=0.0"]));
}

#[tokio::test]
async fn candle_serves_where_a_kernel_is_wrong_and_the_answers_are_right() {
    let (_dir, files) = Weights::random(22).files();
    let (right, _engine) =
        start_candle(Place::cpu().unwrap(), &files, "toy", Quantize::None, config(2)).unwrap();
    let expected = answer(&right).await;
    let idle = |kernel| Traits { idle: Some(kernel), ..Traits::SOUND };
    for traits in
        [FAULTY, idle("rope_bf16"), idle("prefill_bf16"), idle("attend_bf16_2"), idle("add_rms_norm_bf16")]
    {
        let (handle, _engine) = witnessed(&files, Quantize::None, traits).unwrap();
        let platform = handle.platform();
        assert_eq!(platform.backend, BackendKind::Candle, "{traits:?}: {platform:?}");
        assert!(platform.difference.is_some_and(|difference| difference > 0.3), "{traits:?}: {platform:?}");
        println!("{traits:?}: {:?}", platform.difference);
        assert_eq!(platform.device, "cpu");
        assert_eq!(answer(&handle).await, expected, "{traits:?}");
    }
    assert!(logged(&[" backend_chosen ", "backend=candle", "reason=difference", "difference="]));
}

#[tokio::test]
async fn candle_serves_where_kernels_fail_or_lack_the_shape() {
    let (_dir, files) = Weights::random(23).files();
    let (handle, _engine) =
        witnessed(&files, Quantize::None, Traits { lives_for: 20, ..Traits::SOUND }).unwrap();
    assert_eq!(handle.platform().backend, BackendKind::Candle);
    assert_eq!(handle.platform().difference, Some(f32::INFINITY));
    assert_eq!(answer(&handle).await.len(), 12);
    let narrow = json!({
        "model_type": "gemma", "vocab_size": 200, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    });
    let narrow = ModelFiles::random(narrow.to_string().into_bytes()).unwrap();
    let (handle, _engine) = witnessed(&narrow, Quantize::None, Traits::SOUND).unwrap();
    assert_eq!(handle.platform().backend, BackendKind::Candle);
    assert!(logged(&[" backend_chosen ", "backend=candle", "reason=failure"]));
}

#[test]
fn a_device_that_is_absent_or_full_is_an_error() {
    let (_dir, files) = Weights::random(24).files();
    let absent = || Err::<Emulator, _>(DeviceError::NoDevice("as told".to_owned()));
    let error = start_witnessed(absent, Place::cpu().unwrap(), &files, "toy", Quantize::None, config(1))
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "no device: as told");
    let full = Traits { free_bytes: 1 << 20, ..Traits::SOUND };
    let error = witnessed(&files, Quantize::None, full).err().unwrap();
    assert!(matches!(error, StartError::Device(DeviceError::OutOfMemory(_))), "{error}");
}

/// A model of five layers, with a head of its own.
fn five_layers() -> Weights {
    let mut weights = Weights::random(25);
    for (name, tensor) in weights.0.clone() {
        if let Some(part) = name.strip_prefix("model.layers.0.") {
            weights.0.extend((2..5).map(|layer| (format!("model.layers.{layer}.{part}"), tensor.clone())));
        }
    }
    let head = weights.0["model.embed_tokens.weight"].clone();
    weights.0.insert("lm_head.weight".to_owned(), head);
    weights
}

fn vector(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gguf").join(name)
}

/// Starts the model at `path`, with sound kernels and with a faulty one, and returns how many bytes each start read of its
/// files, and which backend serves. What it leaves as their digest must be that of the whole files, which are not read again
/// for it.
fn starts(path: &Path) -> [(u64, BackendKind); 2] {
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/tokenizer.json"),
        path.join("tokenizer.json"),
    )
    .unwrap();
    let tokenizer = fs::metadata(path.join("tokenizer.json")).unwrap().len();
    [Traits::SOUND, FAULTY].map(|traits| {
        let files = ModelFiles::at(path);
        let (handle, _engine) = witnessed(&files, Quantize::None, traits).unwrap();
        println!("{}: {:?}", path.display(), handle.platform());
        let read = files.bytes_read();
        let progress = files.progress();
        assert_eq!(progress.done, progress.total, "all files are read from end to end");
        assert_eq!(files.digest().unwrap(), ModelFiles::at(path).digest().unwrap());
        assert_eq!(files.bytes_read() - read, tokenizer, "only the tokenizer had not been read");
        (read, handle.platform().backend)
    })
}

#[test]
fn the_comparison_reads_the_tensors_of_the_first_layers_once_and_leaves_the_digest_of_whole_files() {
    let (dir, _) = five_layers().files();
    let [config, whole] =
        ["config.json", "model.safetensors"].map(|name| fs::read(dir.path().join(name)).unwrap());
    let (header, metadata) = SafeTensors::read_metadata(&whole).unwrap();
    let bytes = |of: &dyn Fn(&str) -> bool| {
        let tensors = metadata.tensors().into_iter().filter(|(name, _)| of(name));
        tensors.map(|(_, info)| info.data_offsets.1 - info.data_offsets.0).sum::<usize>()
    };
    let later = |name: &str| ["2", "3", "4"].iter().any(|layer| name.contains(&format!("layers.{layer}.")));
    let compared = bytes(&|name| name != "lm_head.weight" && !later(name));
    assert!(compared < whole.len() / 2);
    // The head and the embedding are held against each other, which is no matter of the comparison.
    let heads = bytes(&|name| name == "lm_head.weight" || name == "model.embed_tokens.weight");
    let expected = config.len() + 8 + header + heads + compared + whole.len();
    let expected = [BackendKind::Kernels, BackendKind::Candle].map(|backend| (expected as u64, backend));
    assert_eq!(starts(dir.path()), expected);
}

#[test]
fn the_comparison_reads_part_of_gguf_files_too() {
    // Two of three layers; and a model with heads of 128 numbers, for which there are no kernels. A header is read in pieces of
    // 8 KiB.
    let parts = ["split-00001-of-00003.gguf", "split-00002-of-00003.gguf", "split-00003-of-00003.gguf"];
    let of = |sound| [sound, BackendKind::Candle];
    for (names, compared, backends) in
        [(&["types.gguf"][..], 0.8, of(BackendKind::Kernels)), (&parts[..], 0.0, of(BackendKind::Candle))]
    {
        let dir = tempfile::tempdir().unwrap();
        let sizes = names.iter().map(|name| fs::copy(vector(name), dir.path().join(name)).unwrap());
        let whole: u64 = sizes.sum();
        let most = whole + (whole as f64 * compared) as u64 + 8192 * names.len() as u64;
        for ((read, backend), expected) in starts(dir.path()).into_iter().zip(backends) {
            assert!(read > whole && read <= most, "{read} of {whole}");
            assert_eq!(backend, expected, "{names:?}");
        }
    }
}

/// As the program opens an engine on a GPU that has a wrong kernel.
fn open_faulty(
    files: &ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<EngineParts, OpenError> {
    let shape = json!({
        "model_type": "gemma", "vocab_size": 4096, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256,
        "max_position_embeddings": 128,
    });
    let model = ModelFiles::random(shape.to_string().into_bytes())?;
    let open = || Ok(Emulator::with(FAULTY));
    let (handle, engine) = start_witnessed(open, Place::cpu().unwrap(), &model, name, quantize, config)?;
    Ok((handle, engine, Tokenizer::from_files(files)?))
}

#[tokio::test]
async fn the_metrics_carry_the_largest_difference() {
    let world = World::start().await;
    let mut config = world.config();
    config.model = ModelOrigin::Files { name: TINY_MODEL_NAME.to_owned(), files: ModelFiles::tiny() };
    config.engine = EngineConfig { step_tokens: 32, ..EngineConfig::new(2, 2) };
    let mut service = Service::start_with(config, open_faulty).await.unwrap();
    service.ready().await.unwrap();
    let server = Server { service, http: http() };
    server.until_ready().await;
    let metrics = server.metrics().await;
    let difference = metrics
        .lines()
        .find_map(|line| line.strip_prefix("codeseal_backend_difference{backend=\"candle\"} "));
    assert!(difference.is_some_and(|difference| difference.parse::<f64>().unwrap() > 0.3), "{metrics}");
    let info = metrics.lines().find(|line| line.starts_with("codeseal_model_info{")).unwrap();
    assert!(info.contains("backend=\"candle\"") && info.contains("device=\"cpu\""), "{info}");
}
