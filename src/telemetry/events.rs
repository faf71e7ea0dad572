//! The closed set of log events: numbers and enums, never a text that a user, a key or a path could be in.

use std::net::SocketAddr;

use serde::Serialize;
use tracing::{Level, event};

use super::labels::{Endpoint, Hardening, RequestOutcome};

/// The target of every event: lines of libraries have another one.
pub(super) const TARGET: &str = "codeseal";

/// Everything that the process ever logs.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The launcher's token has expired, or cannot be read.
    AttestationLost {
        /// A name out of a closed set, see `AttestationError::as_str`.
        reason: &'static str,
    },
    /// The launcher's token is good again.
    AttestationRecovered,
    /// The launcher's token agrees with the profile.
    AttestationVerified,
    /// `--backend auto` compared the kernels of a device with candle, and chose.
    BackendChosen {
        /// `kernels` or `candle`.
        backend: &'static str,
        /// `agreement`; or why not the kernels: `difference`, or `failure` of the kernels to load or run.
        reason: &'static str,
        /// The largest difference of a logit, in root mean squares of all; none after a failure.
        difference: Option<f32>,
    },
    /// Fewer connections are accepted than configured: the process may not open more files.
    ConnectionsLimited {
        /// What `--max-connections` says.
        configured: usize,
        /// What is accepted.
        allowed: usize,
        /// Files and connections that the process may have open, from `RLIMIT_NOFILE`.
        descriptors: u64,
    },
    /// The device that the model runs on has failed. It answers nothing any more, so the process ends.
    DeviceFailed,
    /// `--device auto` chose the CPU.
    DeviceFallback {
        /// Why no CUDA device is used, a name out of a closed set.
        reason: &'static str,
    },
    /// The server has begun to stop.
    Draining {
        /// Requests that are still running.
        running: usize,
        /// How long they are given, in seconds.
        limit_secs: u64,
    },
    /// The server has stopped.
    Drained {
        /// Requests that did not finish in time and were cancelled.
        cancelled: usize,
    },
    /// The model failed in the middle of a request.
    GenerationFailed,
    /// Which hardening steps worked: no core dump, no debugger, no swap.
    Hardened(Hardening),
    /// Keys cannot be unwrapped; those in the cache still work.
    KeysLost {
        /// A name out of a closed set, see `KeyError::as_str`.
        reason: &'static str,
    },
    /// Keys can be unwrapped again.
    KeysRecovered,
    /// A request has a DEK that was wrapped under a disabled or destroyed version of the KMS key. Written once a minute
    /// at most; `codeseal_key_failures_total` counts them all.
    KeyVersionDisabled,
    /// Nothing took these lines of the log in time: they are lost.
    LogLinesDropped {
        /// How many since the last such event.
        lines: u64,
    },
    /// No file of the model has this member of its configuration, so that the architecture's default is taken for it.
    ModelAssumption {
        /// As `config.json` calls it, out of a closed set: see `Assumption::as_str`.
        member: &'static str,
    },
    /// Progress of fetching the model.
    ModelDownload {
        /// In steps of ten.
        percent: u64,
    },
    /// Progress of loading the weights, written every second while the model is loaded and warmed up.
    ModelLoad {
        /// Of their bytes, each of which is read, hashed and packed.
        percent: u64,
    },
    /// The weights are in memory, and the model has passed its self-test.
    ModelLoaded {
        /// How long fetching, loading and warming up took, in milliseconds.
        milliseconds: u64,
        /// How long the parts took.
        #[serde(flatten)]
        phases: StartPhases,
    },
    /// The model runs although the manifest does not pin every byte of it.
    ModelNotLocked,
    /// The device, kernels and weight types that the model runs with.
    ModelRuns {
        /// `cpu`, or `cuda` and the name of the device.
        device: Box<str>,
        /// The instruction set of the CPU kernels, or the compute capability that the CUDA kernels were made for.
        kernels: Box<str>,
        /// The types of the weights in memory.
        weights: Box<str>,
        /// The implementation: `kernels` or `candle`.
        backend: &'static str,
    },
    /// Progress of verifying the model against the manifest.
    ModelVerify {
        /// In steps of ten.
        percent: u64,
    },
    /// A task panicked; the message is withheld because it may hold a secret.
    Panicked {
        /// The source file, of this program or of a library.
        file: Box<str>,
        /// The line in it.
        line: u32,
    },
    /// The process accepts requests.
    Ready {
        /// Where requests are taken.
        listen: SocketAddr,
        /// Where metrics are served.
        admin_listen: SocketAddr,
    },
    /// The proxy has a session with a server.
    ProxyConnected,
    /// The proxy has no session with a server any more, or could not begin one.
    ProxyLost {
        /// A name out of a closed set: the code that editors are given.
        reason: &'static str,
    },
    /// An authenticated request has ended. Its number of tokens is not logged: padding hides it from the operator, who reads the log.
    RequestFinished {
        /// What it was for.
        endpoint: Endpoint,
        /// How it ended.
        outcome: RequestOutcome,
        /// From the first byte of the body to the last of the answer, in milliseconds.
        milliseconds: u64,
    },
    /// Unauthenticated requests, which have no `request_finished` of their own. The metrics count each kind.
    RequestsUnauthenticated {
        /// How many ended since the last such event.
        requests: u64,
    },
    /// The device cannot record steps: each kernel is launched by itself, which is slower.
    StepsNotRecorded,
    /// The process has begun.
    Starting {
        /// The package's version.
        version: &'static str,
    },
}

/// The parts of a start, in milliseconds. `tokenizer_ms` passes beside `weights_ms`, and `read_ms`, `hash_ms` and `repack_ms`
/// pass beside each other within it: each is the time that its threads were busy.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StartPhases {
    /// Finding the files, and fetching those that are missing.
    pub find_ms: u64,
    /// Parsing `tokenizer.json`.
    pub tokenizer_ms: u64,
    /// From the headers of the weights to the last of them.
    pub weights_ms: u64,
    /// Reading the weights.
    pub read_ms: u64,
    /// Hashing them.
    pub hash_ms: u64,
    /// Converting, quantizing and packing them.
    pub repack_ms: u64,
    /// Setting up the KV cache.
    pub kv_ms: u64,
    /// Taking the memory of the largest step, on a device with that step.
    pub warm_up_ms: u64,
    /// Computing logits that are checked.
    pub self_test_ms: u64,
}

impl Event {
    fn level(&self) -> Level {
        match self {
            Self::DeviceFailed | Self::GenerationFailed | Self::Panicked { .. } => Level::ERROR,
            Self::BackendChosen { backend: "candle", .. }
            | Self::AttestationLost { .. }
            | Self::ConnectionsLimited { .. }
            | Self::DeviceFallback { .. }
            | Self::KeysLost { .. }
            | Self::KeyVersionDisabled
            | Self::LogLinesDropped { .. }
            | Self::ModelAssumption { .. }
            | Self::ModelNotLocked
            | Self::ProxyLost { .. }
            | Self::StepsNotRecorded => Level::WARN,
            Self::ModelDownload { .. } | Self::ModelVerify { .. } => Level::DEBUG,
            _ => Level::INFO,
        }
    }
}

/// Writes `event` to the log.
pub fn emit(event: Event) {
    // Every field is a number or an enum, so there is nothing in it that JSON could refuse.
    let Ok(json) = serde_json::to_string(&event) else { return };
    match event.level() {
        Level::ERROR => event!(target: TARGET, Level::ERROR, event = json),
        Level::WARN => event!(target: TARGET, Level::WARN, event = json),
        Level::INFO => event!(target: TARGET, Level::INFO, event = json),
        _ => event!(target: TARGET, Level::DEBUG, event = json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ErrorCode;

    #[test]
    fn an_event_is_flat_json_with_its_name_first() {
        let event = Event::RequestFinished {
            endpoint: Endpoint::Generate,
            outcome: RequestOutcome::Failed(ErrorCode::Replayed),
            milliseconds: 7,
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"request_finished","endpoint":"generate","outcome":"replayed","milliseconds":7}"#
        );
    }
}
