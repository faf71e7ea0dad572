//! How long a start takes, part by part: a model is loaded, warmed up and tested as a server does it.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{BenchConfig, BenchError, BenchWeights, median, memory};
use crate::engine::{self, EngineConfig, Phases};
use crate::model::{Checkpoint, LoadTimes, MemoryNeeds};
use crate::telemetry;

/// Requests that run at once, as many as a server runs unless it is told otherwise: the KV cache is for them.
const MAX_RUNNING: usize = 8;

/// Medians of several starts, in milliseconds. The tokenizer is parsed beside the weights, and these are read, hashed and
/// repacked at the same time: the parts add up to more than the whole.
#[derive(Debug, Serialize)]
pub(super) struct StartupReport {
    version: &'static str,
    model: String,
    quantize: &'static str,
    threads: usize,
    repeats: usize,
    /// From the files to an engine that takes requests, the digest of the files included.
    ready_ms: f64,
    tokenizer_ms: f64,
    weights_ms: f64,
    read_ms: f64,
    hash_ms: f64,
    repack_ms: f64,
    kv_ms: f64,
    warm_up_ms: f64,
    self_test_ms: f64,
    /// Of the files of weights.
    file_bytes: u64,
    /// As they are kept.
    weight_bytes: u64,
    /// Of the whole KV cache, used or not.
    kv_bytes: u64,
    /// The most that this process had in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<u64>,
}

/// One start.
struct Start {
    ready: Duration,
    phases: Phases,
    load: LoadTimes,
}

/// Starts an engine as often as `config` says, one after the other.
///
/// # Errors
/// It does not start.
pub(super) fn measure(config: &BenchConfig) -> Result<StartupReport, BenchError> {
    let BenchWeights::Model { name, files: known } = &config.weights else {
        return Err(BenchError::NoTokenizer);
    };
    let (mut starts, mut kv_blocks, mut file_bytes) = (Vec::new(), 0, 0);
    for _ in 0..config.repeats {
        let files = known.afresh();
        let began = Instant::now();
        let limits = EngineConfig { backend: config.backend, ..EngineConfig::new(MAX_RUNNING, 0) };
        let (handle, engine, _) = engine::open(&files, name, config.quantize, limits)?;
        files.digest().map_err(crate::model::ModelError::from)?;
        starts.push(Start { ready: began.elapsed(), phases: handle.phases(), load: files.load_times() });
        (kv_blocks, file_bytes) = (handle.load().kv_blocks, files.progress().total);
        engine.shutdown().map_err(|_| BenchError::Engine)?;
    }
    let needs = MemoryNeeds::of(&Checkpoint::open(known)?, config.quantize);
    let of = |part: fn(&Start) -> Duration| {
        median(&mut starts.iter().map(part).collect::<Vec<_>>()).as_secs_f64() * 1e3
    };
    Ok(StartupReport {
        version: telemetry::VERSION,
        model: name.clone(),
        quantize: config.quantize.as_str(),
        threads: rayon::current_num_threads(),
        repeats: config.repeats,
        ready_ms: of(|start| start.ready),
        tokenizer_ms: of(|start| start.phases.tokenizer),
        weights_ms: of(|start| start.phases.weights),
        read_ms: of(|start| start.load.read),
        hash_ms: of(|start| start.load.hash),
        repack_ms: of(|start| start.load.repack),
        kv_ms: of(|start| start.phases.kv),
        warm_up_ms: of(|start| start.phases.warm_up),
        self_test_ms: of(|start| start.phases.self_test),
        file_bytes,
        weight_bytes: needs.weights,
        kv_bytes: kv_blocks * needs.kv_block,
        peak_bytes: memory::peak_bytes(),
    })
}

impl fmt::Display for StartupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let giga = |bytes: u64| bytes as f64 / 1e9;
        writeln!(
            f,
            "start of {}, weights {}, {} threads; medians of {} starts",
            self.model, self.quantize, self.threads, self.repeats
        )?;
        write!(
            f,
            "{:.2} GB of files, {:.2} GB of weights, {:.2} GB for keys and values",
            giga(self.file_bytes),
            giga(self.weight_bytes),
            giga(self.kv_bytes)
        )?;
        match self.peak_bytes {
            Some(peak) => writeln!(f, "; {:.2} GB at the most\n", giga(peak))?,
            None => writeln!(f, "\n")?,
        }
        for (name, milliseconds) in [
            ("ready", self.ready_ms),
            ("  tokenizer (beside the weights)", self.tokenizer_ms),
            ("  weights", self.weights_ms),
            ("    read (one thread for each file)", self.read_ms),
            ("    hash (one thread for each file)", self.hash_ms),
            ("    repack (all threads)", self.repack_ms),
            ("  KV cache", self.kv_ms),
            ("  warm-up", self.warm_up_ms),
            ("  self-test", self.self_test_ms),
        ] {
            writeln!(f, "{name:<36}{milliseconds:>10.1} ms")?;
        }
        Ok(())
    }
}
