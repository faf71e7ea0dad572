//! Figures of the benchmark, as a table or as JSON.

use std::fmt;

use serde::Serialize;

/// All figures of one model.
#[derive(Debug, Serialize)]
pub(super) struct BenchReport {
    pub(super) version: &'static str,
    pub(super) model: String,
    pub(super) quantize: &'static str,
    /// The implementation: `kernels` or `candle`.
    pub(super) backend: &'static str,
    /// The device's name, if it is not the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<String>,
    pub(super) threads: usize,
    pub(super) prompt_tokens: usize,
    /// Before the first decode step.
    pub(super) context_tokens: usize,
    pub(super) new_tokens: usize,
    pub(super) repeats: usize,
    pub(super) load_seconds: f64,
    /// Read once for every step.
    pub(super) weight_bytes: usize,
    /// Of keys and values, for each token of a sequence.
    pub(super) kv_bytes_per_token: usize,
    /// Weights, keys, values, activations and the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peak_bytes: Option<u64>,
    pub(super) memory_bytes_per_second: f64,
    /// One prompt, by itself.
    pub(super) prefill_tokens_per_second: f64,
    /// Until the token after that prompt is known.
    pub(super) ttft_ms: f64,
    pub(super) decode: Vec<Decode>,
}

/// Decode at one batch size.
#[derive(Debug, Serialize)]
pub(super) struct Decode {
    pub(super) batch: usize,
    /// Of all sequences together.
    pub(super) tokens_per_second: f64,
    pub(super) step_ms: f64,
    /// Weights, keys and values that are read for a step, over the tokens that it makes.
    pub(super) bytes_per_token: f64,
    /// The share of the memory bandwidth that a step uses.
    pub(super) memory_share: f64,
    /// Launches of a recorded step (CUDA graph); none on the CPU, or if the device does not record.
    pub(super) launches_per_step: Option<usize>,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let giga = |bytes: f64| bytes / 1e9;
        write!(f, "{}, weights {}, {}, ", self.model, self.quantize, self.backend)?;
        match &self.device {
            Some(device) => write!(f, "{device}")?,
            None => write!(f, "{} threads", self.threads)?,
        }
        writeln!(f, "; medians of {} runs", self.repeats)?;
        write!(
            f,
            "loaded in {:.1} s, {:.2} GB a step; memory gives {:.1} GB/s",
            self.load_seconds,
            giga(self.weight_bytes as f64),
            giga(self.memory_bytes_per_second)
        )?;
        if let Some(peak) = self.peak_bytes {
            write!(f, "; {:.2} GB at the most", giga(peak as f64))?;
        }
        writeln!(
            f,
            "\n\nprefill of {}: {:.1} tokens/s, first token after {:.1} ms\n",
            self.prompt_tokens, self.prefill_tokens_per_second, self.ttft_ms
        )?;
        writeln!(f, "decode after {} tokens of context\n", self.context_tokens)?;
        write!(
            f,
            "{:>6}{:>12}{:>12}{:>14}{:>14}",
            "batch", "tokens/s", "ms a step", "MB a token", "of memory"
        )?;
        writeln!(f, "{}", if self.device.is_some() { "  launches a step" } else { "" })?;
        for row in &self.decode {
            write!(
                f,
                "{:>6}{:>12.2}{:>12.2}{:>14.1}{:>12.0} %",
                row.batch,
                row.tokens_per_second,
                row.step_ms,
                row.bytes_per_token / 1e6,
                row.memory_share * 100.0
            )?;
            match row.launches_per_step {
                Some(launches) => writeln!(f, "{launches:>17}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
