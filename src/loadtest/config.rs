//! The command line of `codeseal-server loadtest` → what load is put on which server.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::drive::{After, Loop};
use super::prompts::PromptSource;
use super::report::Slo;
use crate::client::Origin;
#[cfg(feature = "sandbox")]
use crate::client::config::loopback;
use crate::flags::{at_least_one, seconds, up_to};
use crate::keys::{Endpoint, KeyName, WrapConfig};

const EXIT_CODES: &str = "\
Exit codes:
  0   every request was answered
  1   the report is written, and some requests failed
  64  wrong usage, or no prompts
  69  the load was not begun: the server or the key service refuses, or cannot be reached
  70  internal failure, or the report cannot be written";

/// Keys that the requests of an open loop are spread over, unless told otherwise.
const OPEN_SESSIONS: usize = 8;
/// The most requests: the times of each are kept until the end.
const MAX_REQUESTS: u64 = 100_000;
/// The most clients and sessions.
const MAX_CLIENTS: u64 = 1024;
/// The most tokens of a prompt.
const MAX_TOKENS: u64 = 1 << 17;

/// What load to put on which server.
#[derive(Clone, Debug)]
pub struct LoadtestConfig {
    /// The server.
    pub server: Origin,
    /// The key that wraps the sessions' DEKs, and the service that does it.
    pub keys: WrapConfig,
    /// When requests are sent.
    pub kind: Loop,
    /// How many keys the requests are spread over.
    pub sessions: usize,
    /// The most requests.
    pub requests: usize,
    /// No request is sent after this time.
    pub duration: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether a request that the server refuses for a while is sent again, as `codeseal complete` does; its time
    /// then has the waits in it.
    pub retry: bool,
    /// Where prompts come from.
    pub prompts: PromptSource,
    /// New tokens of an answer at most.
    pub new_tokens: usize,
    /// Whether answers are streamed.
    pub streamed: bool,
    /// Requests of each session that are answered before the measurement begins.
    pub warm_up: usize,
    /// Prompts and arrivals are the same for the same seed.
    pub seed: u64,
    /// Latency limits of an answer that counts as good.
    pub slo: Slo,
    /// Whether the report is JSON rather than a table.
    pub json: bool,
}

/// Flags that exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadtestConfigError {
    /// The sandbox is given the sessions' keys in the clear, so it must run on this machine.
    #[cfg(feature = "sandbox")]
    #[error("--sandbox-endpoint must be an http:// address of this machine")]
    SandboxElsewhere,
    /// The shared prefix is a part of the prompt.
    #[error("--shared-prefix is longer than the prompt: lower it, or raise --prompt-tokens")]
    SharedPrefix,
}

/// What load to put on a server, as typed.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct LoadtestArgs {
    /// URL of the server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    server: Origin,

    /// The Cloud KMS key that wraps the sessions' keys: projects/P/locations/L/keyRings/R/cryptoKeys/K
    #[arg(long, env = "CODESEAL_KMS_KEY", value_name = "NAME")]
    kms_key: KeyName,

    /// Wrap the sessions' keys with a sandbox on this machine instead of Cloud KMS
    #[cfg(feature = "sandbox")]
    #[arg(long, env = "CODESEAL_SANDBOX_ENDPOINT", value_name = "URL")]
    sandbox_endpoint: Option<String>,

    /// Closed loop: number of clients, each of which sends its next request after the last answer [default: 1]
    #[arg(long, value_name = "N", value_parser = up_to(MAX_CLIENTS), conflicts_with = "rate")]
    clients: Option<usize>,

    /// With --clients: what a client waits for before its next request
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = After::Answer, conflicts_with = "rate")]
    after: After,

    /// Open loop: mean rate of requests per second (Poisson process), independent of the answers
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,

    /// Number of sessions, each with a key of its own [default: one per client, 8 in an open loop]
    #[arg(long, value_name = "N", value_parser = up_to(MAX_CLIENTS))]
    sessions: Option<usize>,

    /// Number of requests to send
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = up_to(MAX_REQUESTS))]
    requests: usize,

    /// Time after which no request is sent; those in flight are waited for
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds(86_400))]
    duration_secs: u64,

    /// Timeout of a request
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = seconds(3600))]
    timeout_secs: u64,

    /// Retry requests that the server refuses temporarily, as `codeseal complete` does
    #[arg(long)]
    retry: bool,

    /// File of prompts, in place of generated ones: per line a JSON object with prompt and optionally suffix
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt_tokens", "shared_prefix"])]
    prompts: Option<PathBuf>,

    /// Approximate length of a generated prompt, in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = up_to(MAX_TOKENS))]
    prompt_tokens: usize,

    /// Length of the prefix that all generated prompts share, in tokens
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=MAX_TOKENS))]
    shared_prefix: usize,

    /// Maximum of new tokens per answer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one())]
    new_tokens: usize,

    /// Request whole answers in place of streams
    #[arg(long)]
    whole: bool,

    /// Warm-up requests per session, before the measurement
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=100))]
    warm_up: usize,

    /// Seed of prompts and arrivals
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Goodput: maximum time to the first token
    #[arg(long, value_name = "MILLISECONDS")]
    slo_ttft_ms: Option<u64>,

    /// Goodput: maximum time to the end of the answer
    #[arg(long, value_name = "MILLISECONDS")]
    slo_e2e_ms: Option<u64>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl LoadtestArgs {
    pub(crate) fn resolve(self) -> Result<LoadtestConfig, LoadtestConfigError> {
        if self.shared_prefix > self.prompt_tokens {
            return Err(LoadtestConfigError::SharedPrefix);
        }
        let clients = self.clients.unwrap_or(1);
        let (kind, sessions) = match self.rate {
            Some(rate) => (Loop::Open { rate }, OPEN_SESSIONS),
            None => (Loop::Closed { clients, after: self.after }, clients),
        };
        let prompts = match self.prompts {
            Some(path) => PromptSource::File(path),
            None => PromptSource::Generated { tokens: self.prompt_tokens, shared: self.shared_prefix },
        };
        #[cfg(feature = "sandbox")]
        let endpoint = match self.sandbox_endpoint.filter(|url| !url.is_empty()) {
            Some(url) => {
                Endpoint::Sandbox(loopback(&url).map_err(|_| LoadtestConfigError::SandboxElsewhere)?)
            }
            None => Endpoint::Google,
        };
        #[cfg(not(feature = "sandbox"))]
        let endpoint = Endpoint::Google;
        Ok(LoadtestConfig {
            server: self.server,
            keys: WrapConfig { key: self.kms_key, endpoint },
            kind,
            sessions: self.sessions.unwrap_or(sessions),
            requests: self.requests,
            duration: Duration::from_secs(self.duration_secs),
            timeout: Duration::from_secs(self.timeout_secs),
            retry: self.retry,
            prompts,
            new_tokens: self.new_tokens,
            streamed: !self.whole,
            warm_up: self.warm_up,
            seed: self.seed,
            slo: Slo { ttft_ms: self.slo_ttft_ms, e2e_ms: self.slo_e2e_ms },
            json: self.json,
        })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (0.001..=100_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("must be from 0.001 to 100000".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::typed_args;

    const KEY: [&str; 2] = ["--kms-key", "projects/p/locations/global/keyRings/r/cryptoKeys/k"];

    fn resolve(more: &[&str]) -> Result<LoadtestConfig, LoadtestConfigError> {
        typed_args::<LoadtestArgs>(KEY.iter().chain(more)).unwrap().resolve()
    }

    #[test]
    fn only_a_server_that_is_named_is_elsewhere() {
        assert_eq!(resolve(&[]).unwrap().server.to_string(), "http://127.0.0.1:8080");
        assert_eq!(resolve(&["--server", "http://h:1"]).unwrap().server.to_string(), "http://h:1");
    }

    #[test]
    fn every_client_has_a_session_of_its_own_unless_told_otherwise() {
        let config = resolve(&["--clients", "5"]).unwrap();
        assert_eq!((config.kind, config.sessions), (Loop::Closed { clients: 5, after: After::Answer }, 5));
        let config = resolve(&["--clients", "5", "--sessions", "2", "--after", "text"]).unwrap();
        assert_eq!((config.kind, config.sessions), (Loop::Closed { clients: 5, after: After::Text }, 2));
        let config = resolve(&["--rate", "2.5"]).unwrap();
        assert_eq!((config.kind, config.sessions), (Loop::Open { rate: 2.5 }, OPEN_SESSIONS));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert_eq!(
            resolve(&["--shared-prefix", "9", "--prompt-tokens", "8"]).unwrap_err(),
            LoadtestConfigError::SharedPrefix
        );
        #[cfg(feature = "sandbox")]
        assert_eq!(
            resolve(&["--sandbox-endpoint", "http://10.0.0.1:1"]).unwrap_err(),
            LoadtestConfigError::SandboxElsewhere
        );
        for wrong in [
            &["--clients", "2", "--rate", "1"][..],
            &["--rate", "1", "--after", "text"],
            &["--after", "frame"],
            &["--rate", "0"],
            &["--rate", "NaN"],
            &["--clients", "0"],
            &["--requests", "100001"],
            &["--prompts", "f", "--prompt-tokens", "8"],
            &["--server", "ftp://h"],
        ] {
            assert!(typed_args::<LoadtestArgs>(KEY.iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
