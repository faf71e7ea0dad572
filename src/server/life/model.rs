//! From the model's name to an engine of verified files.

use std::time::{Duration, Instant};

use super::failure::ServeError;
use crate::attestation::Profile;
use crate::engine::{EngineConfig, EngineParts, ModelFiles, Open, OpenError, Quantize, StartError};
use crate::hub::{self, FetchOptions, HubError, Located, Manifest, ModelSource, Progress};
use crate::server::blocking::blocking;
use crate::server::config::ModelOrigin;
use crate::telemetry::StartPhases;

/// How to start the engine.
pub(super) struct EngineSetup {
    pub(super) open: Open,
    pub(super) quantize: Quantize,
    pub(super) config: EngineConfig,
}

/// An engine, the files that it was loaded from, and how long the parts of the start took.
pub(super) struct LoadedModel {
    pub(super) parts: EngineParts,
    pub(super) files: ModelFiles,
    pub(super) phases: StartPhases,
}

/// Finds the model, loads it, and holds it against the manifest: the bytes that were loaded, which are read once.
///
/// # Errors
/// There is no model, it does not load, or it is not the one that the manifest names.
pub(super) async fn open(
    origin: ModelOrigin,
    profile: Profile,
    setup: &EngineSetup,
) -> Result<LoadedModel, ServeError> {
    let (source, cache) = match origin {
        ModelOrigin::Files { name, files } => return load(setup, name, files, None, Instant::now()).await,
        ModelOrigin::Fetched { source, cache } => (source, cache),
    };
    let options = FetchOptions {
        require_locked: profile != Profile::Sandbox,
        progress: Progress::shown(),
        ..FetchOptions::new(cache, Manifest::built_in()?)
    };
    let (name, began) = (model_name(&source), Instant::now());
    let located = hub::locate(&source, &options).await?;
    let (files, pinned) = (located.files().clone(), located.is_pinned());
    let error = match load(setup, name.clone(), files, Some(located), began).await {
        Err(error) if pinned && is_of_the_files(&error) => error,
        outcome => return outcome,
    };
    // Which file is wrong, if one is. From a cache it is removed and fetched again.
    hub::fetch(&source, &options).await?;
    if matches!(source, ModelSource::Directory(_)) {
        return Err(error);
    }
    let located = hub::locate(&source, &options).await?;
    load(setup, name, located.files().clone(), Some(located), began).await
}

/// Loads `files`, and verifies what was loaded.
async fn load(
    setup: &EngineSetup,
    name: String,
    files: ModelFiles,
    located: Option<Located>,
    began: Instant,
) -> Result<LoadedModel, ServeError> {
    let find = began.elapsed();
    let loading = Progress::shown().loading(&files);
    let (from, &EngineSetup { open, quantize, config }) = (files.clone(), setup);
    let work = move || {
        let (handle, engine, tokenizer) = open(&from, &name, quantize, config)?;
        if let Err(error) = located.map_or(Ok(()), |located| located.verify()) {
            // Its memory is free again when a model that was fetched again is loaded.
            engine.shutdown().ok();
            return Err(error.into());
        }
        Ok::<_, ServeError>((handle, engine, tokenizer))
    };
    let parts = blocking(work).await.map_err(|_| ServeError::Panicked)??;
    drop(loading);
    let phases = phases(find, &parts, &files);
    Ok(LoadedModel { parts, files, phases })
}

fn phases(find: Duration, (handle, ..): &EngineParts, files: &ModelFiles) -> StartPhases {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (engine, load) = (handle.phases(), files.load_times());
    StartPhases {
        find_ms: ms(find),
        tokenizer_ms: ms(engine.tokenizer),
        weights_ms: ms(engine.weights),
        read_ms: ms(load.read),
        hash_ms: ms(load.hash),
        repack_ms: ms(load.repack),
        kv_ms: ms(engine.kv),
        warm_up_ms: ms(engine.warm_up),
        self_test_ms: ms(engine.self_test),
    }
}

/// Whether a file with other bytes than it should have may be the cause.
fn is_of_the_files(error: &ServeError) -> bool {
    match error {
        ServeError::Hub(HubError::Mismatch { .. }) => true,
        ServeError::Model(OpenError::Model(_) | OpenError::Tokenizer(_)) => true,
        ServeError::Model(OpenError::Start(error)) => {
            matches!(error, StartError::Load(_) | StartError::Model(_) | StartError::Wrong)
        }
        _ => false,
    }
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
