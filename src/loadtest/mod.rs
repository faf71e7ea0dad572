//! Load on a running server, through the seal, as its clients see it.
//!
//! In a closed loop each client sends its next request after the last answer, or its text: it measures throughput. In an open
//! loop requests arrive at a given rate: it measures latency under that load. Each session has a key of its own, as each
//! employee's has, so cached prefixes are shared only within one.
//!
//! Text counts when it has been opened and checked. A server that shapes its streams gives text out at the pace of
//! its frames: "between texts" is then the pace, and the first text comes up to one frame after the model made it.
//!
//! Allowed modules: client, files, flags, keys, protocol, secret.
//! Forbidden: axum, codeseal_kernels, google_cloud_*, hyper, reqwest.

mod config;
mod drive;
mod prompts;
mod random;
mod report;
mod request;

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};

use futures_util::future::try_join_all;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tokio::time::Instant;

pub(crate) use self::config::LoadtestArgs;
pub use self::config::{LoadtestConfig, LoadtestConfigError};
pub use self::drive::{After, Loop};
use self::drive::{Bounds, Load};
use self::prompts::Prompts;
pub use self::prompts::{PromptSource, PromptsError};
pub use self::report::Slo;
use self::report::{LoadReport, Setting};
use self::request::Manner;
use crate::client::{Client, ClientError, CompletionOptions};

/// The estimated length of a token of code, in characters, before the server has counted any.
const CHARACTERS_PER_TOKEN: f64 = 3.0;
/// How often that estimate is corrected by the server's token counts.
const CORRECTIONS: usize = 2;
/// The shortest prompt that the estimate is corrected with, in tokens: control tokens would distort a shorter one.
const PROBE_TOKENS: usize = 64;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum LoadtestError {
    /// There are no prompts.
    #[error(transparent)]
    Prompts(#[from] PromptsError),
    /// The sessions cannot be started, or the server does not answer before the load begins.
    #[error("cannot begin: {0}")]
    Begin(#[from] ClientError),
    /// Standard output is closed.
    #[error("cannot write the report: {0}")]
    Write(#[from] io::Error),
    /// The report cannot be written as JSON.
    #[error("cannot write the report: {0}")]
    Json(#[from] serde_json::Error),
    /// The report is written.
    #[error("not every request was answered")]
    Failures,
}

impl LoadtestError {
    /// The status that the process exits with, as `--help` lists it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failures => 1,
            Self::Prompts(_) => 64,
            Self::Begin(ClientError::Internal(_)) | Self::Write(_) | Self::Json(_) => 70,
            Self::Begin(_) => 69,
        }
    }
}

/// Puts the load on the server and writes the report to `stdout`. An interrupt ends the load and reports what
/// there is.
///
/// # Errors
/// [`LoadtestError`]; with [`LoadtestError::Failures`] there is a report.
pub async fn run(config: LoadtestConfig, stdout: &mut impl Write) -> Result<(), LoadtestError> {
    let sessions = (0..config.sessions).map(|_| async {
        let client = Client::connect(&config.server, config.keys.clone()).await?;
        Ok::<_, ClientError>(if config.retry { client } else { client.without_retries() })
    });
    let clients = try_join_all(sessions).await?;
    let prompts = prompts(&config, &clients).await?;
    warm_up(&config, &clients, &prompts).await?;

    let bar = bar(config.requests as u64);
    let samples = RefCell::new(Vec::new());
    let manner = Manner { new_tokens: config.new_tokens, streamed: config.streamed, timeout: config.timeout };
    let load = Load {
        clients: &clients,
        prompts: &prompts,
        manner: &manner,
        bounds: Bounds { requests: config.requests, duration: config.duration },
        seed: config.seed,
        last_text: Cell::default(),
    };
    let done = |sample| {
        bar.inc(1);
        samples.borrow_mut().push(sample);
    };
    let began = Instant::now();
    tokio::select! {
        () = load.run(config.kind, &done) => {}
        // If no handler can be installed, the load runs to its end.
        Ok(()) = tokio::signal::ctrl_c() => {}
    }
    let elapsed = match config.kind {
        // The frames that follow the last text are no work of the model.
        Loop::Closed { after: After::Text, .. } => load.last_text.get().map(|last| last - began),
        _ => None,
    };
    let elapsed = elapsed.unwrap_or_else(|| began.elapsed());
    drop(bar);

    let report = LoadReport::new(setting(&config), &samples.into_inner(), config.slo, elapsed);
    if config.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(stdout, "{report}")?;
    }
    if report.is_clean() { Ok(()) } else { Err(LoadtestError::Failures) }
}

/// The prompts, made-up ones as long as the server's tokenizer has it.
async fn prompts(config: &LoadtestConfig, clients: &[Client]) -> Result<Prompts, LoadtestError> {
    let (tokens, shared) = match &config.prompts {
        PromptSource::File(path) => return Ok(Prompts::read(path)?),
        PromptSource::Generated { tokens, shared } => (*tokens, *shared),
    };
    let mut characters_per_token = CHARACTERS_PER_TOKEN;
    let options = CompletionOptions { max_tokens: Some(1), ..CompletionOptions::default() };
    for correction in 0..CORRECTIONS {
        let probe_tokens = tokens.max(PROBE_TOKENS);
        let probe = Prompts::generated(config.seed, probe_tokens, 0, characters_per_token);
        // Numbers that no measured request has.
        let prompt = probe.prompt(usize::MAX - 1 - correction);
        let Some(client) = clients.first() else { break };
        let answer = client.complete(&prompt, &options, &mut |_| ()).await?;
        let Some(usage) = answer.usage.filter(|usage| usage.prompt_tokens > 0) else { break };
        characters_per_token *= probe_tokens as f64 / usage.prompt_tokens as f64;
    }
    Ok(Prompts::generated(config.seed, tokens, shared, characters_per_token))
}

/// Has each session's key unwrapped, and whatever else only a first request costs.
async fn warm_up(
    config: &LoadtestConfig,
    clients: &[Client],
    prompts: &Prompts,
) -> Result<(), LoadtestError> {
    let options = CompletionOptions { max_tokens: Some(1), ..CompletionOptions::default() };
    for client in clients {
        for index in 0..config.warm_up {
            let prompt = prompts.prompt(usize::MAX / 2 - index);
            client.complete(&prompt, &options, &mut |_| ()).await?;
        }
    }
    Ok(())
}

fn setting(config: &LoadtestConfig) -> Setting {
    let (kind, clients, rate) = match config.kind {
        Loop::Closed { clients, .. } => ("closed", Some(clients), None),
        Loop::Open { rate } => ("open", None, Some(rate)),
    };
    Setting {
        kind,
        clients,
        rate,
        sessions: config.sessions,
        streamed: config.streamed,
        new_tokens: config.new_tokens,
        seed: config.seed,
    }
}

/// A bar on standard error if that is a terminal; it goes when it is dropped.
fn bar(length: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} requests, {elapsed}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_finish(ProgressFinish::AndClear)
}
