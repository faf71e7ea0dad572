//! The hole-filling benchmark: how often, and how nearly, a model writes what stood in a hole.
//!
//! A case goes the way of a real request: the template and the stop tokens of [`prompt`], the handle of
//! [`engine`], greedy choice. What differs is that a single-line answer ends with its line, and that a prompt
//! longer than the context is shortened ([`prompt::infill_within`]) to the context less the new tokens. The model
//! is loaded by [`engine::open`], as a server loads it: what is measured is what is served.
//!
//! Allowed modules: engine, files, flags, model, prompt, protocol, token, tokenizer.
//! Forbidden: axum, google_cloud_*, hyper, reqwest.

mod cases;
mod config;
mod report;
mod similarity;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

pub use self::cases::CasesError;
use self::cases::{Case, Kind};
pub(crate) use self::config::EvalCommand;
pub use self::config::FimConfig;
use self::report::{CaseResult, EvalReport, Example};
use self::similarity::similarity;
use crate::engine::{
    self, Engine, EngineConfig, EngineError, Event, Finish, GenerationRequest, Handle, OpenError, Quantize,
    Sampling, StartError, SubmitError, Token,
};
use crate::model::{Assumption, ModelFiles};
use crate::prompt::{self, Texts};
use crate::protocol::{Dek, HoleStart, MAX_MIDDLE_LINES, Namespace, line_start};
use crate::tokenizer::{TokenId, Tokenizer, TokenizerError};

/// How many cases the engine works on in turn.
const IN_FLIGHT: usize = 4;
/// What one answer may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The file has no usable cases.
    #[error(transparent)]
    Cases(#[from] CasesError),
    /// The context is too short for what is asked.
    #[error("the context of {limit} tokens has no room for the new ones: lower --max-new-tokens")]
    NoRoom {
        /// The context's length in tokens.
        limit: usize,
    },
    /// The model or its tokenizer cannot be loaded, or the engine did not start.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The tokenizer cannot read or write a text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The engine refuses a case.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The engine broke off.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A single answer did not come to an end.
    #[error("an answer took longer than an hour: lower --max-new-tokens")]
    TooSlow,
    /// The OS random number generator failed.
    #[error("the OS random number generator failed: {0}")]
    Randomness(#[from] getrandom::Error),
    /// Standard output is closed.
    #[error("cannot write the report: {0}")]
    Write(#[from] io::Error),
    /// The report cannot be written as JSON.
    #[error("cannot write the report: {0}")]
    Json(#[from] serde_json::Error),
    /// A part of the benchmark panicked.
    #[error("the benchmark failed while the model was loaded")]
    Panicked,
}

impl EvalError {
    /// The status that the process exits with, as `--help` lists it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Cases(_) | Self::NoRoom { .. } => 64,
            Self::Open(OpenError::Start(StartError::NotEnoughMemory(_))) => 69,
            _ => 70,
        }
    }
}

/// A model that waits for cases.
struct Subject {
    handle: Handle,
    _engine: Engine,
    tokenizer: Tokenizer,
    namespace: Namespace,
    max_new_tokens: usize,
}

/// What the model wrote.
struct GeneratedText {
    text: String,
    new_tokens: usize,
    finished: bool,
}

/// Fills the holes of the cases, and writes the report to `stdout` and the time that it took to `stderr`.
///
/// # Errors
/// [`EvalError`]
pub async fn fim(
    config: FimConfig,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> Result<(), EvalError> {
    let FimConfig {
        model_name,
        model,
        quantize,
        device,
        backend,
        cases,
        hole,
        limit,
        max_new_tokens,
        examples,
        json,
    } = config;
    let began = Instant::now();
    let name = model_name.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        // First the cases: what is wrong with them is known at once.
        let cases = cases::read(&cases, limit)?;
        let engine = EngineConfig { device, backend, ..EngineConfig::new(IN_FLIGHT, IN_FLIGHT) };
        let subject = Subject::load(&model, &name, quantize, engine, max_new_tokens)?;
        let prompts = cases.iter().map(|case| subject.prompt(case, hole)).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, EvalError>((subject, cases, prompts))
    });
    let (subject, cases, prompts) = loaded.await.map_err(|_| EvalError::Panicked)??;
    if let Some(member) = subject.handle.assumption().map(Assumption::as_str) {
        writeln!(
            stderr,
            "the model's files do not say its `{member}`: put its config.json beside the gguf file"
        )?;
    }
    writeln!(stderr, "model loaded in {:.1} s", began.elapsed().as_secs_f64())?;

    let began = Instant::now();
    let bar = bar(cases.len() as u64);
    let done: Vec<(CaseResult, Example)> = stream::iter(cases.into_iter().zip(prompts))
        .map(|(case, prompt)| subject.judge(case, prompt, &bar))
        .buffered(IN_FLIGHT)
        .try_collect()
        .await?;
    drop(bar);
    let seconds = began.elapsed().as_secs_f64();

    let (outcomes, mut shown): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    shown.truncate(examples);
    let report = EvalReport::new(model_name, quantize, hole, max_new_tokens, &outcomes, shown);
    if json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(stdout, "{report}")?;
    }
    let (answers, tokens) = (outcomes.len(), report.new_tokens);
    let speed = tokens as f64 / seconds.max(f64::MIN_POSITIVE);
    writeln!(stderr, "{answers} answers of {tokens} tokens in {seconds:.1} s: {speed:.1} tokens/s")?;
    Ok(())
}

impl Subject {
    fn load(
        files: &ModelFiles,
        name: &str,
        quantize: Quantize,
        config: EngineConfig,
        max_new_tokens: usize,
    ) -> Result<Self, EvalError> {
        let (handle, engine, tokenizer) = engine::open(files, name, quantize, config)?;
        // Cases may share what is computed of them: they belong to the same owner.
        let namespace = Dek::generate()?.namespace();
        Ok(Self { handle, _engine: engine, tokenizer, namespace, max_new_tokens })
    }

    /// The prompt of a case, and whether it had to be shortened.
    fn prompt(&self, case: &Case, hole: HoleStart) -> Result<(Vec<TokenId>, bool), TokenizerError> {
        let room = self.handle.context_length().saturating_sub(self.max_new_tokens);
        let encode = |text: &str| self.tokenizer.encode(text);
        let lines = match hole {
            HoleStart::Cursor => return prompt::infill_within(encode, &case.prefix, &case.suffix, room),
            HoleStart::Line => 0,
            HoleStart::Lines => MAX_MIDDLE_LINES,
        };
        let (prefix, middle) = case.prefix.split_at(line_start(&case.prefix, lines));
        let texts = Texts { context: &[], prefix, suffix: Some(&case.suffix), middle };
        let whole = prompt::assemble(encode, &texts, None)?;
        if whole.len() <= room {
            return Ok((whole, false));
        }
        Ok((prompt::assemble(encode, &texts, Some(room))?, true))
    }

    /// Has the hole of a case filled, and compares.
    async fn judge(
        &self,
        case: Case,
        (prompt, prompt_shortened): (Vec<TokenId>, bool),
        bar: &ProgressBar,
    ) -> Result<(CaseResult, Example), EvalError> {
        let GeneratedText { text, new_tokens, finished } = self.answer(prompt, case.kind).await?;
        bar.inc(1);
        let similarity = similarity(&text, &case.middle);
        let exact = text == case.middle;
        let kind = case.kind;
        let outcome = CaseResult { kind, similarity, exact, finished, prompt_shortened, new_tokens };
        let Case { name, middle: expected, .. } = case;
        Ok((outcome, Example { name, kind, expected, answer: text, edit_similarity: similarity }))
    }

    async fn answer(&self, prompt: Vec<TokenId>, kind: Kind) -> Result<GeneratedText, EvalError> {
        let request = GenerationRequest {
            prompt,
            max_new_tokens: self.max_new_tokens,
            stop_ids: prompt::stop_ids(),
            sampling: Sampling::GREEDY,
            logprobs: None,
            namespace: self.namespace,
            deadline: Instant::now() + PATIENCE,
        };
        let mut generation = self.handle.submit(request).map_err(|error| match error {
            SubmitError::TooLong { limit } => EvalError::NoRoom { limit },
            error => error.into(),
        })?;
        let (mut decoder, mut text, mut new_tokens) = (self.tokenizer.decoder(), String::new(), 0);
        let finished = loop {
            match generation.next().await.ok_or(EngineError::Failed)?? {
                Event::Started { .. } => {}
                Event::Token(Token { id, .. }) => {
                    new_tokens += 1;
                    if let Some(piece) = decoder.push(id)? {
                        text.push_str(piece.expose());
                    }
                }
                Event::Finished(Finish::Deadline) => return Err(EvalError::TooSlow),
                Event::Finished(finish) => {
                    if let Some(piece) = decoder.finish() {
                        text.push_str(piece.expose());
                    }
                    break finish == Finish::Stop;
                }
            }
            if kind == Kind::Single && text.contains('\n') {
                break true;
            }
        };
        if kind == Kind::Single {
            text.truncate(text.find('\n').unwrap_or(text.len()));
        }
        Ok(GeneratedText { text, new_tokens, finished })
    }
}

/// A bar on standard error if that is a terminal; it goes when it is dropped.
fn bar(cases: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} cases, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(cases).with_style(style).with_finish(ProgressFinish::AndClear)
}
