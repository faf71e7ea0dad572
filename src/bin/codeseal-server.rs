//! The workload: reads its configuration, hardens itself, serves until a signal, says how it ended.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser as _;
use codeseal::config::{Action, ServerArgs};
use codeseal::engine::ModelFiles;
use codeseal::eval::FimConfig;
use codeseal::hub::{self, FetchOptions, Manifest, ModelsCommand, Progress};
#[cfg(feature = "client")]
use codeseal::loadtest::LoadtestConfig;
use codeseal::protocol::Digest;
use codeseal::server::{self, ServerConfig};
use codeseal::telemetry::{self, Event};
use codeseal::{bench, config, eval};
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;
/// `EX_SOFTWARE`.
const INTERNAL: u8 = 70;

/// How long blocking threads, such as one that loads a model, may take to end.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// What the process says before it ends with a code other than 0.
type Failure = (u8, String);

fn main() -> ExitCode {
    let args = match ServerArgs::try_parse() {
        Ok(args) => args,
        Err(error) => {
            if error.use_stderr() {
                telemetry::write_error(error.render().to_string());
                return ExitCode::from(USAGE);
            }
            // The text of --help or --version. stdout may be closed.
            error.print().ok();
            return ExitCode::SUCCESS;
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            telemetry::write_error(format!("codeseal-server: {message}\n"));
            ExitCode::from(code)
        }
    }
}

fn run(args: ServerArgs) -> Result<(), Failure> {
    let action = args.resolve().map_err(|error| (USAGE, error.to_string()))?;
    let runtime = runtime().map_err(internal)?;
    let outcome = match action {
        Action::Serve(config) => runtime.block_on(serve(*config)),
        Action::Bench(config) => {
            bench::run(&config, &mut io::stdout()).map_err(|error| (error.exit_code(), error.to_string()))
        }
        Action::KernelsCheck(config) => bench::run_checks(&config, &mut io::stdout())
            .map_err(|error| (error.exit_code(), error.to_string())),
        Action::EvalFim(config) => runtime.block_on(eval_fim(config)),
        #[cfg(feature = "client")]
        Action::Loadtest(config) => runtime.block_on(loadtest(*config)),
        Action::Models(command) => runtime.block_on(models(command)),
    };
    runtime.shutdown_timeout(LAST_BREATH);
    outcome
}

/// Half of the cores, at least one, for everything but the model. An idle thread of the runtime is woken for each event that
/// another one handles, which takes time from the model's threads.
fn runtime() -> io::Result<Runtime> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    runtime::Builder::new_multi_thread().worker_threads((cores / 2).max(1)).enable_all().build()
}

async fn serve(config: ServerConfig) -> Result<(), Failure> {
    // Dropped last: what was logged is written then, or given up within a bound.
    let _log = telemetry::init(config.logging.format, config.logging.level).map_err(internal)?;
    telemetry::redact_panics();
    telemetry::emit(Event::Starting { version: telemetry::VERSION });
    telemetry::emit(Event::Hardened(telemetry::harden()));
    // Before anything else can be waited for: as PID 1 a signal without a handler is ignored.
    let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server::run(config, stopped).await.map_err(|error| (error.exit_code(), error.to_string()))
}

async fn eval_fim(config: FimConfig) -> Result<(), Failure> {
    let done = eval::fim(config, &mut io::stdout(), &mut io::stderr()).await;
    done.map_err(|error| (error.exit_code(), error.to_string()))
}

#[cfg(feature = "client")]
async fn loadtest(config: LoadtestConfig) -> Result<(), Failure> {
    let done = codeseal::loadtest::run(config, &mut io::stdout()).await;
    done.map_err(|error| (error.exit_code(), error.to_string()))
}

async fn models(command: ModelsCommand) -> Result<(), Failure> {
    let (model, manifest, model_cache, hugging_face_token) = match command {
        ModelsCommand::Digest { model } => return digest(&model),
        ModelsCommand::Lock { model, manifest, model_cache, hugging_face_token } => {
            (model, manifest, model_cache, hugging_face_token)
        }
    };
    let cache = hub::cache_for(&model, model_cache, config::user_cache());
    let cache = cache.map_err(|error| (USAGE, error.to_string()))?;
    let built_in = Manifest::built_in().map_err(internal)?;
    let options = FetchOptions {
        progress: Progress::shown(),
        hugging_face_token: hugging_face_token.map(Into::into),
        ..FetchOptions::new(cache, built_in)
    };
    hub::lock(&model, &options, &manifest).await.map_err(internal)
}

fn digest(model: &Path) -> Result<(), Failure> {
    let digest = ModelFiles::at(model).digest().map_err(internal)?;
    writeln!(io::stdout(), "{}", Digest::new(digest)).map_err(internal)
}

fn internal(error: impl std::error::Error) -> Failure {
    (INTERNAL, error.to_string())
}
