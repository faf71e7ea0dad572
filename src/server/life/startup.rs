//! From the configuration to a server that can answer.

use std::sync::Arc;
use std::time::Instant;

use super::failure::ServeError;
use super::identity;
use super::model::{self, EngineSetup, LoadedModel};
use crate::engine::{Engine, Open, Platform};
use crate::keys::Keys;
use crate::protocol::Identity;
use crate::server::config::ServerConfig;
use crate::server::state::{App, Loaded};
use crate::telemetry::{self, Event, ModelLabels};

/// Makes everything that answers requests, and lets `app` take them.
pub(crate) async fn load(app: Arc<App>, config: ServerConfig, open: Open) -> Result<Engine, ServeError> {
    let started = Instant::now();
    let keys = Keys::connect(config.kms).await?;
    // The path to KMS is probed meanwhile, so that readiness is known when the model is loaded. A probe that fails does not stop
    // the start: KMS may recover, and an exit is a reboot of the VM.
    let server = app.attestor.server();
    let setup = EngineSetup { open, quantize: config.quantize, config: config.engine };
    let loading = async {
        let model = model::open(config.model, config.profile, &setup);
        let build = async { identity::build().await.map_err(ServeError::Identity) };
        let (model, build) = tokio::try_join!(model, build)?;
        // What was hashed is what was loaded.
        let weights = identity::weights(model.files.clone()).await.map_err(ServeError::Identity)?;
        Ok::<_, ServeError>((model, Identity { build, weights, server }))
    };
    let (loaded, _) = tokio::join!(loading, keys.probe());
    let (LoadedModel { parts: (engine, stop, tokenizer), phases, .. }, identity) = loaded?;
    if let Some(assumption) = engine.assumption() {
        telemetry::emit(Event::ModelAssumption { member: assumption.as_str() });
    }
    app.attestor.set_identity(identity);
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    telemetry::emit(Event::ModelLoaded { milliseconds, phases });
    let Platform { device, kernels, weights, backend, difference } = engine.platform();
    let labels = ModelLabels {
        device: device.clone(),
        kernels: kernels.clone(),
        weights: weights.clone(),
        backend: backend.as_str(),
    };
    app.metrics.model(&labels, *difference);
    telemetry::emit(Event::ModelRuns {
        device: device.as_str().into(),
        kernels: kernels.as_str().into(),
        weights: weights.as_str().into(),
        backend: backend.as_str(),
    });
    app.set_loaded(Loaded { keys, engine, tokenizer: Arc::new(tokenizer) });
    Ok(stop)
}
