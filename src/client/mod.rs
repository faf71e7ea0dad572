//! The employee's side: session, transport, completion.
//!
//! [`Client`] holds one session: a DEK that was made here, wrapped once by Cloud KMS, and never leaves memory.
//!
//! Allowed modules: attestation, files, keys, protocol, secret.
//! Forbidden: axum, codeseal_kernels.

mod call;
mod complete;
pub(crate) mod config;
mod error;
mod exchange;
mod fim;
mod idle;
mod input;
mod line_ends;
mod open;
mod printable;
mod request;
mod retry;
mod session;
mod show_sealed;
mod sse;
mod transport;
mod verify;

pub use self::call::{Events, Held, Link, Proof, Recorded, Recorder, SpareKey, StreamReply, Traffic};
pub use self::complete::{Client, OnText};
pub use self::config::{
    CompleteArgs, CompleteConfig, FileError, FileSettings, GoldenSettings, Servers, SettingsError,
    VerifyArgs, VerifyConfig,
};
pub use self::error::{ClientError, NotAuthentic, Refusal, exit_code};
pub use self::exchange::{Exchange, NextFrame, StreamOpener};
pub use self::fim::{Cursor, CursorError};
pub use self::input::{Input, InputError, InputSource, Prompt};
pub use self::line_ends::LineEnds;
pub(crate) use self::line_ends::{Restorer, to_lf};
pub use self::open::TextCompletion;
pub use self::request::CompletionOptions;
pub use self::session::Session;
pub use self::show_sealed::{Wire, WireTap, show_sealed};
pub use self::transport::{Origin, OriginError};
pub use self::verify::{
    Anchor, Finding, Found, Measurements, Policy, PolicyError, RecheckError, Untrusted, Verdict, Verifier,
    recheck,
};

use std::io::{ErrorKind, Write};

use futures_util::future::LocalBoxFuture;

/// What `codeseal complete` does: reads the prompt, gets its completion, prints it to `out`.
///
/// Exactly the generated text is printed, with one newline at its end only if `terminal` and there is none yet.
/// Its lines end as those of the text that it completes do. With `show_sealed`, the sealed traffic goes to `wire`. A reader of `out` that went away is a success.
///
/// # Errors
/// [`ClientError`], see [`exit_code`].
pub fn run<'a>(
    config: CompleteConfig,
    stdin: &'a mut dyn std::io::Read,
    out: &'a mut dyn Write,
    wire: &'a mut dyn Write,
    terminal: bool,
) -> LocalBoxFuture<'a, Result<(), ClientError>> {
    Box::pin(complete_and_print(config, stdin, out, wire, terminal))
}

async fn complete_and_print(
    mut config: CompleteConfig,
    stdin: &mut dyn std::io::Read,
    out: &mut dyn Write,
    wire: &mut dyn Write,
    terminal: bool,
) -> Result<(), ClientError> {
    let Input { prompt, line_ends } = config.source.read(stdin, config.context_bytes)?;
    // The server looks for them in what the model writes.
    for stop in &mut config.options.stop {
        *stop = to_lf(stop.expose());
    }
    let mut print_wire = |event: Wire<'_>| show_sealed(wire, event);
    let mut silent = |_: Wire<'_>| {};
    let tap: &mut WireTap<'_> = if config.show_sealed { &mut print_wire } else { &mut silent };
    let mut printer = Printer { out, terminal, ends_line: true, restorer: Restorer::new(line_ends) };
    let whole = async {
        let client = match config.policy {
            Some(policy) => {
                let verifier = Verifier::new(policy);
                Client::connect_verified(&config.server, config.keys, verifier).await?
            }
            None => Client::connect(&config.server, config.keys).await?,
        };
        if config.stream {
            client.stream(&prompt, &config.options, tap, &mut |text| printer.print(text)).await?;
        } else {
            let answer = client.complete(&prompt, &config.options, tap).await?;
            printer.print(answer.text.expose())?;
        }
        printer.finish()
    };
    match tokio::time::timeout(config.timeout, whole).await {
        Ok(Err(ClientError::Output(ErrorKind::BrokenPipe))) => Ok(()),
        Ok(result) => result,
        Err(_) => Err(ClientError::TimedOut { secs: config.timeout.as_secs() }),
    }
}

/// What `codeseal verify` does: verifies the server and prints what was proven and what was not.
///
/// # Errors
/// [`ClientError`], see [`exit_code`]; [`ClientError::Untrusted`] after the report was printed.
pub fn run_verify(config: VerifyConfig, out: &mut dyn Write) -> LocalBoxFuture<'_, Result<(), ClientError>> {
    Box::pin(verify_and_print(config, out))
}

async fn verify_and_print(config: VerifyConfig, out: &mut dyn Write) -> Result<(), ClientError> {
    let verifier = Verifier::new(config.policy);
    let verdict = tokio::time::timeout(config.timeout, verifier.verify_at(&config.server)).await;
    let verdict = verdict.map_err(|_| ClientError::TimedOut { secs: config.timeout.as_secs() })??;
    let report = if config.json { printable::ascii_json(&verdict.to_json()) } else { verdict.to_string() };
    match writeln!(out, "{report}").map_err(|error| error.kind()) {
        Ok(()) | Err(ErrorKind::BrokenPipe) => {}
        Err(kind) => return Err(ClientError::Output(kind)),
    }
    verdict.trusted()?;
    Ok(())
}

/// Prints pieces of text as they come.
struct Printer<'a> {
    out: &'a mut dyn Write,
    terminal: bool,
    ends_line: bool,
    restorer: Restorer,
}

impl Printer<'_> {
    fn print(&mut self, text: &str) -> Result<(), ClientError> {
        let text = self.restorer.restore(text);
        let text = text.expose();
        let write = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        self.ends_line = text.chars().next_back().map_or(self.ends_line, |last| last == '\n');
        write.map_err(|error| ClientError::Output(error.kind()))
    }

    fn finish(&mut self) -> Result<(), ClientError> {
        if self.terminal && !self.ends_line { self.print("\n") } else { Ok(()) }
    }
}
