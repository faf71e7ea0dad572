//! From the configuration to a server that can answer.

use std::sync::Arc;
use std::time::Instant;

use super::failure::ServeError;
use super::identity;
use super::model::{self, Opened, Opening};
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
    // Meanwhile the way to KMS is tried, so that readiness has an answer when the model does. Whether it works is
    // no reason not to start: it may heal, and an exit is a reboot of the VM.
    let server = app.attestor.server();
    let how = Opening { open, quantize: config.quantize, config: config.engine };
    let opening = async {
        let opened = model::open(config.model, config.profile, &how);
        let build = async { identity::build().await.map_err(ServeError::Identity) };
        let (opened, build) = tokio::try_join!(opened, build)?;
        // What was hashed is what was loaded.
        let weights = identity::weights(opened.files.clone()).await.map_err(ServeError::Identity)?;
        Ok::<_, ServeError>((opened, Identity { build, weights, server }))
    };
    let (opened, _) = tokio::join!(opening, keys.probe());
    let (Opened { parts: (engine, stop, tokenizer), phases, .. }, identity) = opened?;
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
