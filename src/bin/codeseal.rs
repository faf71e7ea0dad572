//! `codeseal`: the employee's tool. Parses, dispatches, exits; the work is in the library.

#![forbid(unsafe_code)]

use std::alloc::System;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, ValueEnum as _};
use codeseal::client::{self, CompleteArgs, FileSettings, SettingsError, VerifyArgs};
#[cfg(feature = "sandbox")]
use codeseal::config::client::SandboxArgs;
use codeseal::config::client::{ClientArgs, Command, PolicyArgs, settings_file};
use codeseal::config::{self, Program};
#[cfg(all(feature = "server", feature = "sandbox"))]
use codeseal::demo::{self, DemoConfig};
use codeseal::proxy::{self, ProxyArgs, ProxyTask};
#[cfg(feature = "sandbox")]
use codeseal::sandbox::Sandbox;
use codeseal::telemetry::{self, LogFormat, LogLevel};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use zeroizing_alloc::ZeroAlloc;

/// Heap memory is wiped when it is freed, that of libraries too: prompts pass through their buffers.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Wrong usage or configuration; `clap` uses the same.
const USAGE: u8 = 2;
/// An internal failure of the program.
const INTERNAL: u8 = 70;

fn main() -> ExitCode {
    let command = ClientArgs::parse().command;
    let Ok(runtime) = Runtime::new() else {
        return fail(INTERNAL, &"cannot start a thread");
    };
    let code = match command {
        Command::Complete(args) => complete(&runtime, *args),
        Command::Verify(args) => verify(&runtime, args),
        Command::Proxy(args) => proxy(&runtime, *args),
        Command::Policy(args) => policy(args),
        #[cfg(feature = "sandbox")]
        Command::Sandbox(args) => sandbox(&runtime, args),
        #[cfg(all(feature = "server", feature = "sandbox"))]
        Command::Demo => demo(&runtime),
        Command::Completions(args) => {
            written(args.write(config::command(args.program), &mut std::io::stdout()))
        }
        Command::Man(args) => {
            let programs = Program::value_variants().iter().map(|program| config::command(*program));
            written(args.write(programs).map(drop))
        }
    };
    // A KMS client may have left a background refresh: it is not waited for.
    runtime.shutdown_background();
    code
}

/// The configuration file's settings.
fn settings() -> Result<FileSettings, SettingsError> {
    match settings_file() {
        Some(path) => Ok(FileSettings::read(&path)?),
        None => Ok(FileSettings::default()),
    }
}

fn complete(runtime: &Runtime, args: CompleteArgs) -> ExitCode {
    let config = settings().and_then(|file| args.resolve(file));
    let config = match config {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    // No prompt in a core dump; what a system does not allow is not missed here.
    telemetry::harden();
    let (mut stdin, mut stdout, mut stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let terminal = stdout.is_terminal();
    let done = client::run(config, &mut stdin, &mut stdout, &mut stderr, terminal);
    match runtime.block_on(done) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(client::exit_code(&error), &error),
    }
}

fn verify(runtime: &Runtime, args: VerifyArgs) -> ExitCode {
    let config = settings().and_then(|file| args.resolve(file));
    let config = match config {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    match runtime.block_on(client::run_verify(config, &mut std::io::stdout())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(client::exit_code(&error), &error),
    }
}

fn proxy(runtime: &Runtime, args: ProxyArgs) -> ExitCode {
    let task = settings().and_then(|file| args.resolve(file));
    let task = match task {
        Ok(task) => task,
        Err(error) => return fail(USAGE, &error),
    };
    match task {
        ProxyTask::Serve(config) => {
            // Prompts pass through this process: no core dump, no debugger, and nothing of them in a panic.
            telemetry::harden();
            telemetry::redact_panics();
            // One line for each change of state; a process has one log, and this is the first.
            telemetry::init_to(LogFormat::Text, LogLevel::Info, std::io::stderr).ok();
            match runtime.block_on(proxy::run(*config, &mut std::io::stdout(), stopped())) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(USAGE, &error),
            }
        }
        #[cfg(all(feature = "server", feature = "sandbox"))]
        ProxyTask::Demo(listen) => {
            telemetry::harden();
            telemetry::redact_panics();
            let scratch = std::env::temp_dir();
            match runtime.block_on(demo::proxy(*listen, &scratch, &mut std::io::stdout(), stopped())) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(INTERNAL, &error),
            }
        }
        ProxyTask::Tool(tool) => match runtime.block_on(tool.run()) {
            Ok(report) => {
                // A reader that has seen enough is no failure.
                writeln!(std::io::stdout(), "{}", report.text).ok();
                ExitCode::from(report.exit_code)
            }
            Err(error) => fail(error.exit_code(), &error),
        },
    }
}

/// Waits for the signal to end.
async fn stopped() {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn policy(args: PolicyArgs) -> ExitCode {
    let command = match args.resolve() {
        Ok(command) => command,
        Err(error) => return fail(USAGE, &error),
    };
    match command.run(&mut std::io::stdout()) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => fail(INTERNAL, &error),
    }
}

#[cfg(feature = "sandbox")]
fn sandbox(runtime: &Runtime, args: SandboxArgs) -> ExitCode {
    let config = match args.resolve() {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    let served = async {
        // Before anything else can be waited for: as PID 1 a signal without a handler is ignored.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let sandbox = Sandbox::start(config).await.map_err(|error| error.to_string())?;
        writeln!(std::io::stdout(), "{}", sandbox.describe()).map_err(|error| error.to_string())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        sandbox.shutdown().await;
        Ok::<(), String>(())
    };
    match runtime.block_on(served) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(INTERNAL, &error),
    }
}

#[cfg(all(feature = "server", feature = "sandbox"))]
fn demo(runtime: &Runtime) -> ExitCode {
    let mut stdout = std::io::stdout();
    // https://no-color.org: any value but the empty one.
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let config = DemoConfig { scratch: std::env::temp_dir(), colour: stdout.is_terminal() && !plain };
    match runtime.block_on(demo::run(config, &mut stdout)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(INTERNAL, &error),
    }
}

fn written(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(INTERNAL, &error),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // stderr may be closed: the exit code is enough then.
    writeln!(std::io::stderr(), "codeseal: {error}").ok();
    ExitCode::from(code)
}
