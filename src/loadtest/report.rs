//! Figures of a load test, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::request::{Sample, Times};

/// What an answer must keep to count as good.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Slo {
    /// Milliseconds until the first text; of an answer that was not streamed, until its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<u64>,
    /// Milliseconds until the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e2e_ms: Option<u64>,
}

/// What was asked for, as the report repeats it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Setting {
    #[serde(rename = "loop")]
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clients: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<f64>,
    pub(super) sessions: usize,
    pub(super) streamed: bool,
    pub(super) new_tokens: usize,
    pub(super) seed: u64,
}

/// Everything that is said of one load test.
#[derive(Debug, Serialize)]
pub(super) struct LoadReport {
    setting: Setting,
    seconds: f64,
    requests: usize,
    answered: usize,
    errors: BTreeMap<String, usize>,
    /// Of the answered requests, as the server counted.
    mean_prompt_tokens: f64,
    mean_new_tokens: f64,
    requests_per_second: f64,
    new_tokens_per_second: f64,
    prompt_tokens_per_second: f64,
    /// In milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_ms: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    between_texts_ms: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_token_ms: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_end_ms: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e2e_ms: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    goodput: Option<Goodput>,
}

/// How many answers were good.
#[derive(Debug, Serialize)]
struct Goodput {
    slo: Slo,
    requests: usize,
    requests_per_second: f64,
    /// Of all requests, those that failed included.
    share: f64,
}

/// Where a set of times lies, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Figures {
    mean: f64,
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

impl Slo {
    fn is_stated(self) -> bool {
        self.ttft_ms.is_some() || self.e2e_ms.is_some()
    }

    fn is_kept(self, times: &Times) -> bool {
        let within = |time: Duration, limit: Option<u64>| {
            limit.is_none_or(|limit| time <= Duration::from_millis(limit))
        };
        within(times.first_text.unwrap_or(times.whole), self.ttft_ms) && within(times.whole, self.e2e_ms)
    }
}

impl LoadReport {
    /// Of requests that took `elapsed` all together.
    pub(super) fn new(setting: Setting, samples: &[Sample], slo: Slo, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let answers: Vec<&Times> = samples.iter().filter_map(|sample| sample.outcome.as_ref().ok()).collect();
        let mut errors = BTreeMap::new();
        for code in samples.iter().filter_map(|sample| sample.outcome.as_ref().err()) {
            *errors.entry(code.clone()).or_insert(0) += 1;
        }
        let usages = || answers.iter().filter_map(|times| times.usage);
        let prompt_tokens = usages().map(|usage| usage.prompt_tokens).sum::<usize>() as f64;
        let new_tokens = usages().map(|usage| usage.completion_tokens).sum::<usize>() as f64;
        let counted = usages().count().max(1) as f64;
        let good = answers.iter().filter(|times| slo.is_kept(times)).count();
        Self {
            setting,
            seconds,
            requests: samples.len(),
            answered: answers.len(),
            errors,
            mean_prompt_tokens: prompt_tokens / counted,
            mean_new_tokens: new_tokens / counted,
            requests_per_second: answers.len() as f64 / seconds,
            new_tokens_per_second: new_tokens / seconds,
            prompt_tokens_per_second: prompt_tokens / seconds,
            ttft_ms: Figures::of(answers.iter().filter_map(|times| times.first_text)),
            between_texts_ms: Figures::of(answers.iter().flat_map(|times| times.gaps.iter().copied())),
            per_token_ms: Figures::of(answers.iter().filter_map(|times| times.per_token())),
            text_end_ms: Figures::of(answers.iter().filter_map(|times| times.text_end)),
            e2e_ms: Figures::of(answers.iter().map(|times| times.whole)),
            goodput: slo.is_stated().then(|| Goodput {
                slo,
                requests: good,
                requests_per_second: good as f64 / seconds,
                share: good as f64 / samples.len().max(1) as f64,
            }),
        }
    }

    /// Whether every request was answered, and there was one.
    pub(super) fn is_clean(&self) -> bool {
        self.answered == self.requests && self.answered > 0
    }
}

impl Figures {
    /// None of nothing.
    fn of(times: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let max = *times.last()?;
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let at = |percent| percentile(&times, percent).unwrap_or(max);
        Some(Self { mean, p50: at(50), p90: at(90), p95: at(95), p99: at(99), max })
    }
}

/// The smallest of `sorted` that `percent` of them do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { kind, clients, rate, sessions, streamed, new_tokens, seed } = &self.setting;
        write!(f, "{kind} loop")?;
        if let Some(clients) = clients {
            write!(f, ", {clients} clients")?;
        }
        if let Some(rate) = rate {
            write!(f, ", {rate} requests/s on average")?;
        }
        writeln!(
            f,
            ", {sessions} sessions, {}, at most {new_tokens} new tokens, seed {seed}",
            if *streamed { "streamed" } else { "not streamed" }
        )?;
        writeln!(
            f,
            "{} requests in {:.2} s: {} answered, {} failed; {:.0} prompt tokens and {:.1} new ones on average\n",
            self.requests,
            self.seconds,
            self.answered,
            self.requests - self.answered,
            self.mean_prompt_tokens,
            self.mean_new_tokens
        )?;
        writeln!(
            f,
            "throughput: {:.2} requests/s, {:.1} new tokens/s, {:.1} prompt tokens/s\n",
            self.requests_per_second, self.new_tokens_per_second, self.prompt_tokens_per_second
        )?;
        writeln!(
            f,
            "{:<16}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "milliseconds", "mean", "p50", "p90", "p95", "p99", "max"
        )?;
        for (name, figures) in [
            ("first text", self.ttft_ms),
            ("between texts", self.between_texts_ms),
            ("per new token", self.per_token_ms),
            ("whole text", self.text_end_ms),
            ("whole answer", self.e2e_ms),
        ] {
            if let Some(Figures { mean, p50, p90, p95, p99, max }) = figures {
                write!(f, "{name:<16}")?;
                for value in [mean, p50, p90, p95, p99, max] {
                    write!(f, "{value:>10.2}")?;
                }
                writeln!(f)?;
            }
        }
        if let Some(goodput) = &self.goodput {
            writeln!(
                f,
                "\ngoodput: {:.2} requests/s, {:.1} % of the requests",
                goodput.requests_per_second,
                goodput.share * 100.0
            )?;
        }
        for (code, count) in &self.errors {
            writeln!(f, "failed with {code}: {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::openai::Usage;

    fn answered(first: u64, whole: u64) -> Sample {
        Sample {
            outcome: Ok(Times {
                first_text: Some(Duration::from_millis(first)),
                gaps: vec![Duration::from_millis(whole - first)],
                text_end: Some(Duration::from_millis(whole)),
                whole: Duration::from_millis(whole),
                usage: Some(Usage::new(10, 2)),
            }),
        }
    }

    fn failed(code: &str) -> Sample {
        Sample { outcome: Err(code.to_owned()) }
    }

    fn setting() -> Setting {
        Setting {
            kind: "closed",
            clients: Some(2),
            rate: None,
            sessions: 2,
            streamed: true,
            new_tokens: 2,
            seed: 0,
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for percent in [50, 90, 95, 99, 100] {
            assert_eq!(percentile(&hundred, percent), Some(percent as f64));
        }
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 50), Some(2.0));
        assert_eq!(percentile(&[4.0], 99), Some(4.0));
        assert_eq!(percentile(&[], 50), None);
        assert_eq!(Figures::of(std::iter::empty()), None);
    }

    #[test]
    fn goodput_counts_answers_that_keep_every_part_of_the_slo() {
        let samples = [answered(10, 20), answered(40, 50), answered(10, 90), failed("server_busy")];
        let slo = Slo { ttft_ms: Some(30), e2e_ms: Some(60) };
        let report = LoadReport::new(setting(), &samples, slo, Duration::from_secs(2));
        let goodput = report.goodput.as_ref().unwrap();
        assert_eq!((goodput.requests, goodput.share, goodput.requests_per_second), (1, 0.25, 0.5));
        assert!(!report.is_clean());
        assert_eq!((report.requests, report.answered, report.errors["server_busy"]), (4, 3, 1));
        assert_eq!((report.new_tokens_per_second, report.mean_prompt_tokens), (3.0, 10.0));
        let table = report.to_string();
        for part in ["3 answered, 1 failed", "failed with server_busy: 1", "25.0 %", "first text"] {
            assert!(table.contains(part), "{part}: {table}");
        }
    }

    #[test]
    fn an_answer_without_a_stream_is_judged_by_its_end() {
        let times = Times { whole: Duration::from_millis(40), ..Times::default() };
        assert!(Slo { ttft_ms: Some(40), e2e_ms: None }.is_kept(&times));
        assert!(!Slo { ttft_ms: Some(39), e2e_ms: None }.is_kept(&times));
        assert!(Slo::default().is_kept(&times) && !Slo::default().is_stated());
    }

    #[test]
    fn nothing_asked_is_not_clean() {
        let report = LoadReport::new(setting(), &[], Slo::default(), Duration::ZERO);
        assert!(!report.is_clean());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["requests"], &json["requests_per_second"]), (&0.into(), &0.0.into()));
        assert!(json.get("ttft_ms").is_none() && json.get("goodput").is_none());
    }
}
