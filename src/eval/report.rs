//! Figures of the benchmark, as a table or as JSON. Texts are shown only as the examples that were asked for.

use std::fmt;

use serde::Serialize;

use super::cases::Kind;
use crate::engine::Quantize;
use crate::protocol::{HoleStart, MAX_MIDDLE_LINES};

/// The 97.5th percentile of the normal distribution: what makes an interval one of 95 %.
const Z: f64 = 1.959_964;

/// What came of one case.
pub(super) struct CaseResult {
    pub(super) kind: Kind,
    /// From 0 to 1, and 1 exactly if the answer is what stood in the hole.
    pub(super) similarity: f64,
    pub(super) exact: bool,
    /// Whether the model came to an end by itself, or at the end of a line where that is enough.
    pub(super) finished: bool,
    pub(super) prompt_shortened: bool,
    pub(super) new_tokens: usize,
}

/// A case to look at.
#[derive(Serialize)]
pub(super) struct Example {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) expected: String,
    pub(super) answer: String,
    pub(super) edit_similarity: f64,
}

/// All that is said of one model on one file of cases; the same every time.
#[derive(Serialize)]
pub(super) struct EvalReport {
    pub(super) model: String,
    #[serde(serialize_with = "as_name")]
    pub(super) quantize: Quantize,
    pub(super) hole: HoleStart,
    pub(super) max_new_tokens: usize,
    /// Prompts that did not fit the context.
    pub(super) prompts_shortened: usize,
    /// Answers that ended because there were no more new tokens.
    pub(super) answers_cut: usize,
    pub(super) new_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    single: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<Figures>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) examples: Vec<Example>,
}

/// Means over some cases, and where the true ones lie with a probability of 95 %.
#[derive(Debug, PartialEq, Serialize)]
struct Figures {
    cases: usize,
    exact_match: f64,
    exact_match_95: [f64; 2],
    edit_similarity: f64,
    edit_similarity_95: [f64; 2],
}

impl EvalReport {
    pub(super) fn new(
        model: String,
        quantize: Quantize,
        hole: HoleStart,
        max_new_tokens: usize,
        outcomes: &[CaseResult],
        examples: Vec<Example>,
    ) -> Self {
        let of = |kind| Figures::new(outcomes.iter().filter(|outcome| outcome.kind == kind));
        Self {
            model,
            quantize,
            hole,
            max_new_tokens,
            prompts_shortened: outcomes.iter().filter(|outcome| outcome.prompt_shortened).count(),
            answers_cut: outcomes.iter().filter(|outcome| !outcome.finished).count(),
            new_tokens: outcomes.iter().map(|outcome| outcome.new_tokens).sum(),
            single: of(Kind::Single),
            multi: of(Kind::Multi),
            all: Figures::new(outcomes.iter()),
            examples,
        }
    }
}

impl Figures {
    /// None of no cases.
    fn new<'a>(outcomes: impl Iterator<Item = &'a CaseResult> + Clone) -> Option<Self> {
        let cases = outcomes.clone().count();
        if cases == 0 {
            return None;
        }
        let n = cases as f64;
        let exact_match = outcomes.clone().filter(|outcome| outcome.exact).count() as f64 / n;
        let edit_similarity = outcomes.clone().map(|outcome| outcome.similarity).sum::<f64>() / n;
        let squares = outcomes.map(|outcome| (outcome.similarity - edit_similarity).powi(2)).sum::<f64>();
        Some(Self {
            cases,
            exact_match,
            exact_match_95: share_interval(exact_match, n),
            edit_similarity,
            edit_similarity_95: mean_interval(edit_similarity, squares, n),
        })
    }
}

/// Wilson's interval of a share: sound for shares near 0 and 1 too, where those of small models lie.
fn share_interval(share: f64, n: f64) -> [f64; 2] {
    let centre = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

/// The interval of a mean by the normal distribution; of a single value nothing is known.
fn mean_interval(mean: f64, squares: f64, n: f64) -> [f64; 2] {
    if n < 2.0 {
        return [0.0, 1.0];
    }
    let half = Z * (squares / (n - 1.0) / n).sqrt();
    [(mean - half).max(0.0), (mean + half).min(1.0)]
}

fn as_name<S: serde::Serializer>(quantize: &Quantize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(quantize.as_str())
}

impl fmt::Display for EvalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.model)?;
        match self.quantize {
            Quantize::None => write!(f, "weights as in the files")?,
            quantize => write!(f, "weights quantized to {}", quantize.as_str())?,
        }
        match self.hole {
            HoleStart::Cursor => {}
            HoleStart::Line => write!(f, ", holes from the cursor's line on")?,
            HoleStart::Lines => write!(f, ", holes from {MAX_MIDDLE_LINES} lines above the cursor's on")?,
        }
        writeln!(f, ", at most {} new tokens", self.max_new_tokens)?;
        writeln!(f, "kind   cases  exact match             edit similarity")?;
        for (name, figures) in
            [(Kind::Single.as_str(), &self.single), (Kind::Multi.as_str(), &self.multi), ("all", &self.all)]
        {
            if let Some(figures) = figures {
                let exact = percent(figures.exact_match, figures.exact_match_95);
                let alike = percent(figures.edit_similarity, figures.edit_similarity_95);
                writeln!(f, "{name:6} {:>5}  {exact:22}  {alike}", figures.cases)?;
            }
        }
        if self.answers_cut > 0 {
            writeln!(f, "answers cut at the limit of new tokens: {}", self.answers_cut)?;
        }
        if self.prompts_shortened > 0 {
            writeln!(f, "prompts shortened to fit the context: {}", self.prompts_shortened)?;
        }
        for example in &self.examples {
            writeln!(f, "\n{} ({}, {:.2})", example.name, example.kind.as_str(), example.edit_similarity)?;
            writeln!(f, "--- expected\n{}\n--- answered\n{}", example.expected, example.answer)?;
        }
        Ok(())
    }
}

fn percent(mean: f64, [low, high]: [f64; 2]) -> String {
    format!("{:.1} % ({:.1} to {:.1})", mean * 100.0, low * 100.0, high * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(kind: Kind, similarity: f64) -> CaseResult {
        let (finished, prompt_shortened) = (similarity > 0.0, similarity < 0.5);
        CaseResult { kind, similarity, exact: similarity == 1.0, finished, prompt_shortened, new_tokens: 3 }
    }

    fn report(outcomes: &[CaseResult], examples: Vec<Example>) -> EvalReport {
        EvalReport::new(String::from("m"), Quantize::Q4K, HoleStart::Cursor, 64, outcomes, examples)
    }

    fn about(interval: [f64; 2], [low, high]: [f64; 2]) -> bool {
        (interval[0] - low).abs() < 5e-4 && (interval[1] - high).abs() < 5e-4
    }

    #[test]
    fn intervals_are_those_of_the_textbooks() {
        assert!(about(share_interval(0.0, 10.0), [0.0, 0.2775]));
        assert!(about(share_interval(1.0, 10.0), [0.7225, 1.0]));
        assert!(about(share_interval(0.5, 100.0), [0.4038, 0.5962]));
        // Half of the values 0.4, half 0.6: a deviation of 0.1005 over 100 of them.
        assert!(about(mean_interval(0.5, 100.0 * 0.01, 100.0), [0.4803, 0.5197]));
        assert_eq!(mean_interval(0.5, 0.0, 1.0), [0.0, 1.0]);
    }

    #[test]
    fn kinds_are_counted_apart_and_together() {
        let outcomes = [
            outcome(Kind::Single, 1.0),
            outcome(Kind::Single, 0.5),
            outcome(Kind::Multi, 0.0),
            outcome(Kind::Multi, 0.0),
        ];
        let json = serde_json::to_value(report(&outcomes, Vec::new())).unwrap();
        for (kind, cases, exact, alike) in
            [("single", 2, 0.5, 0.75), ("multi", 2, 0.0, 0.0), ("all", 4, 0.25, 0.375)]
        {
            let figures = &json[kind];
            assert_eq!(
                (&figures["cases"], &figures["exact_match"]),
                (&cases.into(), &exact.into()),
                "{kind}"
            );
            assert_eq!(figures["edit_similarity"], alike, "{kind}");
        }
        assert_eq!(json["quantize"], "q4k");
        assert_eq!((&json["answers_cut"], &json["prompts_shortened"]), (&2.into(), &2.into()));
        assert_eq!(json["new_tokens"], 12);
        assert!(json.get("examples").is_none());
    }

    #[test]
    fn a_kind_without_cases_has_no_figures() {
        let report = report(&[outcome(Kind::Multi, 0.5)], Vec::new());
        assert!(serde_json::to_value(&report).unwrap().get("single").is_none());
        assert!(!report.to_string().contains("single"));
    }

    #[test]
    fn the_table_is_one_that_people_read() {
        let example = Example {
            name: String::from("a.py:7"),
            kind: Kind::Single,
            expected: String::from("x + 1"),
            answer: String::from("x"),
            edit_similarity: 0.2,
        };
        let text = report(&[outcome(Kind::Single, 0.0)], vec![example]).to_string();
        assert_eq!(
            text,
            "m, weights quantized to q4k, at most 64 new tokens
kind   cases  exact match             edit similarity
single     1  0.0 % (0.0 to 79.3)     0.0 % (0.0 to 100.0)
all        1  0.0 % (0.0 to 79.3)     0.0 % (0.0 to 100.0)
answers cut at the limit of new tokens: 1
prompts shortened to fit the context: 1

a.py:7 (single, 0.20)
--- expected
x + 1
--- answered
x
"
        );
    }
}
