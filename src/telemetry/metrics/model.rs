//! What the model runs on.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Default)]
pub(super) struct ModelMetrics {
    info: Family<ModelLabels, Gauge>,
    difference: Family<BackendLabel, Gauge<f64, AtomicU64>>,
}

/// See [`crate::telemetry::Event::ModelRuns`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ModelLabels {
    /// `cpu`, or `cuda` and the device's name.
    pub device: String,
    /// The instruction set or the compute capability of the kernels, or `candle`.
    pub kernels: String,
    /// The types of the weights in memory.
    pub weights: String,
    /// `kernels` or `candle`.
    pub backend: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabel {
    backend: &'static str,
}

impl ModelMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("model_info", "What the model runs on; always 1", self.info.clone());
        registry.register(
            "backend_difference",
            "Largest difference of a logit between the kernels of a device and candle at the start, in root mean squares \
             of all logits, by the backend that was chosen; +Inf if the kernels failed",
            self.difference.clone(),
        );
    }

    pub(super) fn set(&self, labels: &ModelLabels, difference: Option<f32>) {
        self.info.get_or_create(labels).set(1);
        if let Some(difference) = difference {
            let label = BackendLabel { backend: labels.backend };
            self.difference.get_or_create(&label).set(f64::from(difference));
        }
    }
}
