//! Every metric: its name, what it means, its buckets. Labels are closed sets.
//!
//! Where vLLM has a metric of the same name, it means the same here.

mod model;

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use self::model::ModelLabels;
use self::model::ModelMetrics;
use super::build_info::VERSION;
use super::labels::{Endpoint, RequestOutcome};
use super::queue::dropped_lines;

/// From one millisecond to about a minute.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<EndpointLabel, Histogram>,
    in_flight: Gauge,
    engine: EngineMetrics,
    queue_time: Histogram,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    key_seconds: Histogram,
    key_failures: Family<ReasonLabel, Counter>,
    replay_entries: Gauge,
    ready: Gauge,
    model: ModelMetrics,
    log_lines_dropped: Counter,
}

/// Counters and gauges of the engine, read when metrics are scraped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineReadings {
    /// Running sequences.
    pub running: u64,
    /// Waiting sequences.
    pub waiting: u64,
    /// KV blocks in use.
    pub kv_blocks_used: u64,
    /// KV blocks in the pool.
    pub kv_blocks: u64,
    /// Steps that the model has taken.
    pub steps: u64,
    /// Tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Those of them that were found.
    pub prefix_hits: u64,
    /// Draft tokens (speculative decoding).
    pub draft_tokens: u64,
    /// Accepted draft tokens.
    pub accepted_tokens: u64,
}

/// The metrics that show [`EngineReadings`].
#[derive(Debug, Default)]
struct EngineMetrics {
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
    steps: Counter,
    prefix_queries: Counter,
    prefix_hits: Counter,
    draft_tokens: Counter,
    accepted_tokens: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: Endpoint,
    code: RequestOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: Endpoint,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Counts one request as in flight for as long as it lives.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("codeseal");
        let seconds = || Histogram::new(SECONDS);
        let mut metrics = Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
            engine: EngineMetrics::default(),
            queue_time: seconds(),
            time_to_first_token: seconds(),
            inter_token_latency: seconds(),
            prompt_tokens: Counter::<u64, AtomicU64>::default(),
            generation_tokens: Counter::<u64, AtomicU64>::default(),
            key_seconds: seconds(),
            key_failures: Family::default(),
            replay_entries: Gauge::default(),
            ready: Gauge::default(),
            model: ModelMetrics::default(),
            log_lines_dropped: Counter::default(),
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register("build", "Which build this is", Info::new(vec![("version", VERSION)]));
        registry.register("requests", "Requests that ended, by how", m.requests.clone());
        registry.register(
            "request_seconds",
            "Seconds from the receipt of a request to the end of its answer",
            m.request_seconds.clone(),
        );
        registry.register("requests_in_flight", "Requests between arrival and answer", m.in_flight.clone());
        m.engine.register(&mut registry);
        registry.register(
            "request_queue_time_seconds",
            "Seconds that a sequence waited in the queue",
            m.queue_time.clone(),
        );
        registry.register(
            "time_to_first_token_seconds",
            "Seconds from arrival to the first token",
            m.time_to_first_token.clone(),
        );
        registry.register(
            "inter_token_latency_seconds",
            "Seconds between two tokens of a sequence",
            m.inter_token_latency.clone(),
        );
        registry.register("prompt_tokens", "Tokens of prompts", m.prompt_tokens.clone());
        registry.register("generation_tokens", "Tokens generated", m.generation_tokens.clone());
        registry.register(
            "key_seconds",
            "Seconds until a request had its key, from the cache or from Cloud KMS",
            m.key_seconds.clone(),
        );
        registry.register(
            "key_failures",
            "Keys that could not be unwrapped, and failed probes of the key service, by reason",
            m.key_failures.clone(),
        );
        registry.register(
            "replay_entries",
            "Envelopes within the replay window that cannot be sent again",
            m.replay_entries.clone(),
        );
        registry.register("ready", "1 while the server takes requests", m.ready.clone());
        m.model.register(&mut registry);
        registry.register(
            "log_lines_dropped",
            "Log lines that were dropped because nothing read them in time",
            m.log_lines_dropped.clone(),
        );
        metrics.registry = registry;
        metrics
    }

    /// One more request in flight, until the guard is dropped.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// A request has ended after `elapsed`.
    pub fn request_finished(&self, endpoint: Endpoint, code: RequestOutcome, elapsed: Duration) {
        self.requests.get_or_create(&RequestLabels { endpoint, code }).inc();
        self.request_seconds.get_or_create(&EndpointLabel { endpoint }).observe(elapsed.as_secs_f64());
    }

    /// A sequence has waited for the model for `elapsed`.
    pub fn queued(&self, elapsed: Duration) {
        self.queue_time.observe(elapsed.as_secs_f64());
    }

    /// The first token came `elapsed` after the request.
    pub fn first_token(&self, elapsed: Duration) {
        self.time_to_first_token.observe(elapsed.as_secs_f64());
    }

    /// The next token came `elapsed` after the one before.
    pub fn next_token(&self, elapsed: Duration) {
        self.inter_token_latency.observe(elapsed.as_secs_f64());
    }

    /// A sequence has ended.
    pub fn tokens(&self, prompt: usize, generated: usize) {
        self.prompt_tokens.inc_by(prompt as u64);
        self.generation_tokens.inc_by(generated as u64);
    }

    /// Unwrapping a key has ended, with or without success, after `elapsed`.
    pub fn key(&self, elapsed: Duration) {
        self.key_seconds.observe(elapsed.as_secs_f64());
    }

    /// A key could not be unwrapped, or a probe of the key service failed. `reason` is a name out of a closed set, see
    /// `KeyError::as_str`.
    pub fn key_failed(&self, reason: &'static str) {
        self.key_failures.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Whether requests are taken.
    pub fn ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// What the model runs on. `difference` is between the kernels and candle, if they were compared.
    pub fn model(&self, labels: &ModelLabels, difference: Option<f32>) {
        self.model.set(labels, difference);
    }

    /// Everything in the OpenMetrics text format, with what is read rather than counted.
    ///
    /// # Errors
    /// None in practice: the text is written to memory.
    pub fn render(&self, engine: EngineReadings, replay_entries: usize) -> Result<String, fmt::Error> {
        self.engine.show(engine);
        self.replay_entries.set(gauge(replay_entries as u64));
        // The log's own count, which only ever grows.
        self.log_lines_dropped.inner().store(dropped_lines(), Ordering::Relaxed);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl EngineMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("num_requests_running", "Sequences that the model works on", self.running.clone());
        registry.register("num_requests_waiting", "Sequences that wait for the model", self.waiting.clone());
        registry.register(
            "kv_cache_usage_perc",
            "Share of the KV blocks that is in use, from 0 to 1",
            self.kv_usage.clone(),
        );
        for (name, help, counter) in [
            ("engine_steps", "Steps that the model has taken, for all sequences together", &self.steps),
            ("prefix_cache_queries", "Tokens of prompts looked up in the prefix cache", &self.prefix_queries),
            ("prefix_cache_hits", "Tokens of prompts found in the prefix cache", &self.prefix_hits),
            (
                "spec_decode_num_draft_tokens",
                "Draft tokens of speculative decoding (prompt lookup)",
                &self.draft_tokens,
            ),
            ("spec_decode_num_accepted_tokens", "Draft tokens that were accepted", &self.accepted_tokens),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    fn show(&self, engine: EngineReadings) {
        self.running.set(gauge(engine.running));
        self.waiting.set(gauge(engine.waiting));
        self.kv_usage.set(engine.kv_blocks_used as f64 / engine.kv_blocks.max(1) as f64);
        for (counter, total) in [
            (&self.steps, engine.steps),
            (&self.prefix_queries, engine.prefix_queries),
            (&self.prefix_hits, engine.prefix_hits),
            (&self.draft_tokens, engine.draft_tokens),
            (&self.accepted_tokens, engine.accepted_tokens),
        ] {
            // The engine's own count, which only ever grows.
            counter.inner().store(total, Ordering::Relaxed);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl EncodeLabelValue for Endpoint {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(self.as_str())
    }
}

impl EncodeLabelValue for RequestOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(self.as_str())
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ErrorCode;

    #[test]
    fn names_and_labels_are_what_dashboards_expect() {
        let metrics = Metrics::new();
        metrics.request_finished(Endpoint::Generate, RequestOutcome::Ok, Duration::from_millis(3));
        metrics.request_finished(
            Endpoint::Other,
            RequestOutcome::Failed(ErrorCode::NotFound),
            Duration::ZERO,
        );
        metrics.key_failed("condition_not_met");
        let [device, kernels, weights] = ["cpu", "avx2", "q8_0"].map(String::from);
        metrics.model(&ModelLabels { device, kernels, weights, backend: "kernels" }, Some(0.25));
        let engine = EngineReadings {
            running: 1,
            waiting: 2,
            kv_blocks_used: 3,
            kv_blocks: 4,
            prefix_queries: 5,
            prefix_hits: 6,
            draft_tokens: 7,
            accepted_tokens: 8,
            steps: 9,
        };
        let text = metrics.render(engine, 3).unwrap();
        for line in [
            "codeseal_requests_total{endpoint=\"generate\",code=\"ok\"} 1",
            "codeseal_requests_total{endpoint=\"other\",code=\"not_found\"} 1",
            "codeseal_request_seconds_count{endpoint=\"generate\"} 1",
            "codeseal_key_failures_total{reason=\"condition_not_met\"} 1",
            "codeseal_num_requests_running 1",
            "codeseal_num_requests_waiting 2",
            "codeseal_kv_cache_usage_perc 0.75",
            "codeseal_prefix_cache_queries_total 5",
            "codeseal_prefix_cache_hits_total 6",
            "codeseal_spec_decode_num_draft_tokens_total 7",
            "codeseal_spec_decode_num_accepted_tokens_total 8",
            "codeseal_engine_steps_total 9",
            "codeseal_request_queue_time_seconds_count 0",
            "codeseal_time_to_first_token_seconds_count 0",
            "codeseal_log_lines_dropped_total 0",
            "codeseal_model_info{device=\"cpu\",kernels=\"avx2\",weights=\"q8_0\",backend=\"kernels\"} 1",
            "codeseal_backend_difference{backend=\"kernels\"} 0.25",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_request_is_in_flight_while_its_guard_lives() {
        let metrics = Metrics::new();
        let render = || metrics.render(EngineReadings::default(), 0).unwrap();
        let guards = [metrics.in_flight(), metrics.in_flight()];
        assert!(render().contains("codeseal_requests_in_flight 2"));
        drop(guards);
        assert!(render().contains("codeseal_requests_in_flight 0"));
    }
}
