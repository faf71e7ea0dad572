//! `codeseal`: the employee's tool. Parses, dispatches, exits; the work is in the library.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use codeseal::client::{self, ClientError};
use codeseal::config::client::{ClientArgs, Command, CompleteArgs, FileSettings};
use tokio::runtime::Runtime;

/// Wrong usage or configuration; `clap` uses the same.
const USAGE: u8 = 2;
/// The program failed, nobody else.
const INTERNAL: u8 = 70;

fn main() -> ExitCode {
    let command = ClientArgs::parse().command;
    let Ok(runtime) = Runtime::new() else {
        return fail(INTERNAL, &"cannot start a thread");
    };
    let code = match command {
        Command::Complete(args) => complete(&runtime, *args),
        #[cfg(feature = "sandbox")]
        Command::Sandbox(args) => sandbox(&runtime, args),
        #[cfg(all(feature = "server", feature = "sandbox"))]
        Command::Demo => demo(&runtime),
    };
    // A KMS client may have left a refresh behind that nobody waits for.
    runtime.shutdown_background();
    code
}

fn complete(runtime: &Runtime, args: CompleteArgs) -> ExitCode {
    let config = FileSettings::load().map_err(Into::into).and_then(|file| args.resolve(file));
    let config = match config {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    let (mut stdin, mut stdout, mut stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let terminal = stdout.is_terminal();
    let done = client::run(config, &mut stdin, &mut stdout, &mut stderr, terminal);
    match runtime.block_on(done) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(exit_code(&error), &error),
    }
}

fn exit_code(error: &ClientError) -> u8 {
    client::exit_code(error)
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // If nobody reads stderr, the code still tells.
    writeln!(std::io::stderr(), "codeseal: {error}").ok();
    ExitCode::from(code)
}
