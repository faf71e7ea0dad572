//! From the model's name to a server that can answer, and what can keep it from there.

use std::sync::Arc;
use std::time::Instant;

use super::identity;
use crate::attestation::{AttestationError, Malformed, Profile, ProfileMismatch};
use crate::engine::{
    Engine, EngineConfig, EngineParts, ModelFiles, Open, OpenError, Platform, Quantize, StartError,
};
use crate::hub::{self, FetchOptions, HubError, Manifest, ManifestError, ModelSource, Progress};
use crate::keys::{KeyError, Keys};
use crate::server::blocking::blocking;
use crate::server::config::{ModelOrigin, ServerConfig};
use crate::server::state::{App, Loaded};
use crate::telemetry::{self, Event};

/// Why the server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no token to check at the start.
    #[error(transparent)]
    Attestation(#[from] AttestationError),
    /// A path that is configured names something else than it must.
    #[error("{source} (it is {path})")]
    AttestationPath {
        /// The path, escaped.
        path: String,
        /// What it must name.
        source: AttestationError,
    },
    /// The token at the start is none.
    #[error(transparent)]
    AttestationMalformed(#[from] Malformed),
    /// An address cannot be listened on.
    #[error("cannot listen on {flag}: {source}")]
    Listen {
        /// The flag that names the address.
        flag: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The device that the model ran on has failed.
    #[error("{0}")]
    DeviceFailed(String),
    /// The model thread is gone.
    #[error("the model has stopped working")]
    EngineStopped,
    /// The model cannot be had.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The clients of the key service cannot be made.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The built-in manifest is broken.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The model does not load.
    #[error(transparent)]
    Model(#[from] OpenError),
    /// The system has no randomness to give.
    #[error("the system has no randomness to give")]
    NoRandomness,
    /// A part of the server panicked.
    #[error("the server failed while it started")]
    Panicked,
    /// The executable or the model cannot be read once more.
    #[error("cannot hash the executable and the model: {0}")]
    Identity(#[source] std::io::Error),
    /// This machine is not what it should be.
    #[error(transparent)]
    Profile(#[from] ProfileMismatch),
    /// The attestation token has expired, and the policy is to exit.
    #[error("the attestation token has expired, and --on-token-expiry is exit")]
    TokenExpired,
}

impl ServeError {
    /// The status that the process exits with, as `--help` lists it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Listen { .. } => 64,
            Self::Model(OpenError::Start(StartError::TooFewBlocks { .. })) => 64,
            Self::DeviceFailed(_)
            | Self::Model(OpenError::Start(StartError::Device(_) | StartError::NotEnoughMemory(_))) => 69,
            Self::TokenExpired => 75,
            Self::Attestation(_)
            | Self::AttestationPath { .. }
            | Self::AttestationMalformed(_)
            | Self::Profile(_) => 78,
            _ => 70,
        }
    }
}

/// Makes everything that answers requests, and lets `app` take them.
pub(crate) async fn load(app: Arc<App>, config: ServerConfig, open: Open) -> Result<Engine, ServeError> {
    let started = Instant::now();
    let keys = Keys::connect(config.kms).await?;
    // Meanwhile the way to KMS is tried, so that readiness has an answer when the model does. Whether it works is
    // no reason not to start: it may heal, and an exit is a reboot of the VM.
    let server = app.attestor.server();
    let opening = async {
        let (name, files) = find(config.model, config.profile).await?;
        let identify =
            async { identity::identify(server, files.clone()).await.map_err(ServeError::Identity) };
        let opened = open_engine(open, name, files.clone(), config.quantize, config.engine);
        let both = tokio::try_join!(opened, identify)?;
        // What was hashed is what was loaded.
        files.check_unchanged().map_err(|error| ServeError::Identity(error.into()))?;
        Ok::<_, ServeError>(both)
    };
    let (opened, _) = tokio::join!(opening, keys.probe());
    let ((engine, stop, tokenizer), identity) = opened?;
    if let Some(assumption) = engine.assumption() {
        telemetry::emit(Event::ModelAssumption { member: assumption.as_str() });
    }
    app.attestor.set_identity(identity);
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    telemetry::emit(Event::ModelLoaded { milliseconds });
    let Platform { device, kernels, weights } = engine.platform();
    app.metrics.model(device, kernels, weights);
    telemetry::emit(Event::ModelRuns {
        device: device.as_str().into(),
        kernels: kernels.as_str().into(),
        weights: weights.as_str().into(),
    });
    app.set_loaded(Loaded { keys, engine, tokenizer: Arc::new(tokenizer) });
    Ok(stop)
}

/// Fetches the model if need be: its name and its files.
async fn find(model: ModelOrigin, profile: Profile) -> Result<(String, ModelFiles), ServeError> {
    match model {
        ModelOrigin::Files { name, files } => Ok((name, files)),
        ModelOrigin::Fetched { source, cache } => {
            let options = FetchOptions {
                require_locked: profile != Profile::Sandbox,
                progress: Progress::shown(),
                ..FetchOptions::new(cache, Manifest::built_in()?)
            };
            let directory = hub::fetch(&source, &options).await?;
            Ok((model_name(&source), ModelFiles::at(directory)))
        }
    }
}

/// Starts an engine for the model.
async fn open_engine(
    open: Open,
    name: String,
    files: ModelFiles,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<EngineParts, ServeError> {
    let opened = blocking(move || open(&files, &name, quantize, config));
    Ok(opened.await.map_err(|_| ServeError::Panicked)??)
}

/// What clients are told: never where the model lies on this machine.
fn model_name(source: &ModelSource) -> String {
    match source {
        ModelSource::Directory(path) => ModelFiles::name_of(path),
        ModelSource::HuggingFace { repo, .. } => repo.clone(),
        ModelSource::Bucket { prefix, .. } => prefix.rsplit('/').next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_by_its_last_name() {
        for (source, name) in [
            ("models/tiny", "tiny"),
            ("models/codegemma-2b-Q4_K_M.gguf", "codegemma-2b-Q4_K_M"),
            ("models/codegemma-7b-00001-of-00003.gguf", "codegemma-7b"),
            ("hf://google/codegemma-2b@main", "google/codegemma-2b"),
            ("gs://bucket/codegemma/codegemma-2b", "codegemma-2b"),
        ] {
            assert_eq!(model_name(&source.parse().unwrap()), name);
        }
    }
}
