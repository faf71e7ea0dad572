//! The command line of `codeseal proxy`: flags, then environment, then configuration file → validated settings.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::{HeaderValue, Uri};

use super::context::Repository;
use super::cover::{CoverArgs, Rhythm};
use super::golden::Golden;
use super::link::Timing;
use super::listen::{AccessToken, Inherited};
use super::tools::{Tool, ToolArgs};
use crate::client::config::{given, invalid, policy, wrap_config};
use crate::client::{FileSettings, GoldenSettings, Origin, Policy, Servers, SettingsError};
use crate::keys::WrapConfig;
use crate::protocol::HoleStart;

/// Where llama.vim and llama.vscode look without any setting.
const PORT: u16 = 8012;
/// Where Ollama's clients look.
const OLLAMA_PORT: u16 = 11434;
/// How long a request may take, in seconds, unless told otherwise.
const DEFAULT_TIMEOUT_SECS: u64 = 60;
/// For up to this many new tokens an editor gets its answer in one piece, when the text has ended.
const DEFAULT_WHOLE_BELOW: usize = 64;

/// Keys that follow each other faster are a paste, not typing.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// How long a client may take for what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

const HELP: &str = "\
The editor's base URL is http://127.0.0.1:8012/v1 for OpenAI clients, and http://127.0.0.1:8012 for
llama.cpp, Tabby and Ollama clients. The status page is http://127.0.0.1:8012/.

`--editor NAME` prints a whole configuration for vim, neovim, vscode, continue, zed, emacs, jupyter,
tabby, llm or aider.";

/// The flags of `codeseal proxy`, as typed.
#[derive(Args)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true)]
pub struct ProxyArgs {
    /// URL of a server, such as http://10.0.0.7:8080; may be repeated, the first is preferred
    #[arg(long, env = "CODESEAL_SERVER", value_name = "URL", value_delimiter = ',', help_heading = "Server")]
    server: Vec<String>,

    /// Cloud KMS key that only the attested workload may use
    #[arg(long, env = "CODESEAL_KMS_KEY", value_name = "NAME", help_heading = "Server")]
    kms_key: Option<String>,

    /// Wrap keys with a sandbox on this machine instead of Cloud KMS
    #[cfg(feature = "sandbox")]
    #[arg(long, env = "CODESEAL_SANDBOX_ENDPOINT", value_name = "URL", help_heading = "Server")]
    sandbox_endpoint: Option<String>,

    /// Verify each server against the policy before a key is wrapped for it, and again before the verdict expires
    #[arg(long, env = "CODESEAL_VERIFY", help_heading = "Verification")]
    verify: bool,

    /// Policy for --verify: a TOML file, see `codeseal verify --help`
    #[arg(long, env = "CODESEAL_POLICY", value_name = "FILE", help_heading = "Verification")]
    policy: Option<PathBuf>,

    /// Address to listen on, loopback only; may be repeated [default: 127.0.0.1:8012 and [::1]:8012]
    #[arg(
        long,
        env = "CODESEAL_PROXY_LISTEN",
        value_name = "ADDR",
        value_delimiter = ',',
        help_heading = "Listeners"
    )]
    listen: Vec<SocketAddr>,

    /// Listen where Ollama does as well: port 11434
    #[arg(long, help_heading = "Listeners")]
    ollama: bool,

    /// Listen on a Unix socket as well
    #[arg(long, env = "CODESEAL_PROXY_SOCKET", value_name = "PATH", help_heading = "Listeners")]
    socket: Option<PathBuf>,

    /// A web page that may use the proxy, as scheme, name and port; may be repeated
    #[arg(long, value_name = "ORIGIN", help_heading = "Listeners")]
    allow_origin: Vec<String>,

    /// Let other accounts of this machine use the proxy
    #[arg(long, help_heading = "Listeners")]
    any_user: bool,

    /// Demand the token in this file of each request; the file is made if it is not there
    #[arg(long, env = "CODESEAL_PROXY_TOKEN", value_name = "FILE", help_heading = "Listeners")]
    token: Option<PathBuf>,

    /// Where a hole begins. From `cursor` to `lines`, a key leaves more of the prompt in the server's prefix cache
    #[arg(long, env = "CODESEAL_PROXY_HOLE", value_name = "WHERE", value_enum, default_value_t = HoleStart::Lines, help_heading = "Completions")]
    hole: HoleStart,

    /// Streams of at most this many new tokens reach the editor in one piece, once their text has ended [default: 64]
    #[arg(long, env = "CODESEAL_PROXY_WHOLE_BELOW", value_name = "N", help_heading = "Completions")]
    whole_below: Option<usize>,

    /// Files that go with a prompt: none, or those of the repository that its file imports and those edited lately
    #[arg(long, env = "CODESEAL_PROXY_CONTEXT", value_name = "WHAT", value_enum, default_value_t = ContextSource::Off, help_heading = "Completions")]
    context: ContextSource,

    /// With --context repo: a directory in the repository [default: the current directory]
    #[arg(long, env = "CODESEAL_PROXY_WORK_TREE", value_name = "DIR", help_heading = "Completions")]
    work_tree: Option<PathBuf>,

    /// After an accepted completion, request the next one ahead while no other request runs
    #[arg(long, env = "CODESEAL_PROXY_SPECULATE", help_heading = "Completions")]
    speculate: bool,

    #[command(flatten)]
    cover: CoverArgs,

    /// Timeout of a request, in seconds [default: 60]
    #[arg(long, env = "CODESEAL_PROXY_TIMEOUT_SECS", value_name = "SECONDS", help_heading = "Server")]
    timeout_secs: Option<u64>,

    /// Append each verdict to this file
    #[arg(long, env = "CODESEAL_PROXY_VERDICT_LOG", value_name = "FILE", help_heading = "Verification")]
    verdict_log: Option<PathBuf>,

    /// Refuse a server that runs another build, image or weights than when it was verified first, even within the policy
    #[arg(long, env = "CODESEAL_PROXY_PIN_FIRST", help_heading = "Verification")]
    pin_first: bool,

    /// Start a local Confidential Space and a server as well: no account, nothing to set
    #[cfg(all(feature = "server", feature = "sandbox"))]
    #[arg(long, conflicts_with_all = ["server", "kms_key", "sandbox_endpoint", "verify", "policy"], help_heading = "Setup")]
    demo: bool,

    /// The service manager's socket, which it sets itself
    #[arg(long, env = "NOTIFY_SOCKET", value_name = "SOCKET", hide = true)]
    notify: Option<OsString>,

    #[command(flatten)]
    tool: ToolArgs,
}

/// Where the files come from that are sent as context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ContextSource {
    /// None but those that the editor sends.
    #[default]
    Off,
    /// The repository.
    Repo,
}

/// What `codeseal proxy` is to do.
#[derive(Debug)]
pub enum ProxyTask {
    /// Serve.
    Serve(Box<ProxyConfig>),
    /// Serve, with a server that is started first; its address and key take the place of those here.
    #[cfg(all(feature = "server", feature = "sandbox"))]
    Demo(Box<DemoListen>),
    /// Something else, with a proxy that runs or none.
    Tool(Tool),
}

/// Everything that the proxy needs, validated.
#[derive(Debug)]
pub struct ProxyConfig {
    /// The servers, the preferred one first.
    pub servers: Vec<Origin>,
    /// The key that wraps DEKs, and the service that does it.
    pub keys: WrapConfig,
    /// What a server must be, if that is to be verified.
    pub policy: Option<Policy>,
    /// The policy's file, for people.
    pub policy_name: Option<String>,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Where to listen if this machine has such an address.
    pub listen_if_possible: Vec<SocketAddr>,
    /// A Unix socket to listen on.
    pub socket: Option<PathBuf>,
    /// Sockets of the service manager, which take the place of all others.
    pub inherited: Inherited,
    /// Web pages that may use the proxy.
    pub allowed_origins: Vec<HeaderValue>,
    /// Whether other accounts may use it.
    pub any_user: bool,
    /// The token that each request must have.
    pub token: Option<AccessToken>,
    /// Where holes begin.
    pub layout: HoleStart,
    /// Streams of at most this many tokens reach the editor in one piece.
    pub whole_below: usize,
    /// The repository whose files go with prompts.
    pub repository: Option<Repository>,
    /// Requests for the same file that follow each other faster become one.
    pub debounce: Duration,
    /// Whether the next completion is requested ahead after an accept.
    pub speculate: bool,
    /// The rhythm that requests leave at, if they do.
    pub cover: Option<Rhythm>,
    /// For one request.
    pub timeout: Duration,
    /// For a client to take what is written to it.
    pub write_timeout: Duration,
    /// Where verdicts are appended to.
    pub verdict_log: Option<PathBuf>,
    /// Whether a server may only run what it ran when it was verified first.
    pub pin_first: bool,
    /// The golden request, which each new session must answer.
    pub golden: Golden,
    /// Intervals of the background work.
    pub timing: Timing,
    /// The service manager's socket, if there is one.
    pub notify: Option<OsString>,
}

/// The settings of a proxy whose server is started with it (`--demo`).
#[cfg(all(feature = "server", feature = "sandbox"))]
#[derive(Debug)]
pub struct DemoListen {
    listening: Listening,
}

#[derive(Debug)]
struct Listening {
    listen: Vec<SocketAddr>,
    listen_if_possible: Vec<SocketAddr>,
    socket: Option<PathBuf>,
    inherited: Inherited,
    allowed_origins: Vec<HeaderValue>,
    any_user: bool,
    token: Option<AccessToken>,
    layout: HoleStart,
    whole_below: usize,
    repository: Option<Repository>,
    speculate: bool,
    cover: Option<Rhythm>,
    timeout: Duration,
    verdict_log: Option<PathBuf>,
    pin_first: bool,
    golden: Golden,
    notify: Option<OsString>,
}

impl ProxyArgs {
    /// Fills what was not given from `file` and checks everything.
    ///
    /// # Errors
    /// [`SettingsError`]: which setting is missing or wrong.
    pub fn resolve(mut self, file: FileSettings) -> Result<ProxyTask, SettingsError> {
        let tool = std::mem::take(&mut self.tool);
        if let Some(tool) = tool.resolve(self.url(), self.token.clone())? {
            return Ok(ProxyTask::Tool(tool));
        }
        #[cfg(all(feature = "server", feature = "sandbox"))]
        if self.demo {
            return Ok(ProxyTask::Demo(Box::new(DemoListen { listening: self.listening()? })));
        }
        let mut servers = std::mem::take(&mut self.server);
        servers.retain(|server| !server.is_empty());
        if servers.is_empty() {
            servers = file.server.map(Servers::all).unwrap_or_default();
        }
        if servers.is_empty() {
            return Err(SettingsError::Missing {
                what: "server",
                flag: "--server",
                variable: "CODESEAL_SERVER",
                key: "server",
            });
        }
        let servers = servers.iter().map(|server| server.parse().map_err(|error| invalid("--server", error)));
        let servers = servers.collect::<Result<Vec<Origin>, _>>()?;
        #[cfg(feature = "sandbox")]
        let sandbox = given(self.sandbox_endpoint.take()).or(file.sandbox_endpoint);
        #[cfg(not(feature = "sandbox"))]
        let sandbox = None;
        let keys = wrap_config(given(self.kms_key.take()).or(file.kms_key), sandbox)?;
        let verify = self.verify || file.verify.unwrap_or(false);
        let name = self.policy.as_ref().or(file.policy.as_ref());
        let policy_name = name.filter(|_| verify).map(|path| path.display().to_string());
        let policy = if verify { Some(policy(self.policy.take(), file.policy)?) } else { None };
        if self.pin_first && policy.is_none() {
            return Err(invalid(
                "--pin-first",
                "needs --verify: without a verdict there is nothing to compare",
            ));
        }
        let mut listening = self.listening()?;
        if let Some(GoldenSettings { prefix, suffix, expected }) = file.golden {
            listening.golden =
                Golden::new(prefix, suffix, expected).map_err(|error| invalid("golden", error))?;
        }
        Ok(ProxyTask::Serve(Box::new(listening.with(servers, keys, policy, policy_name))))
    }

    /// Where a proxy with these settings is.
    fn url(&self) -> String {
        let address = self.listen.first().copied().unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
        format!("http://{address}")
    }

    fn listening(self) -> Result<Listening, SettingsError> {
        if self.listen.iter().any(|address| !address.ip().is_loopback()) {
            return Err(invalid(
                "--listen",
                "must be an address of loopback: prompts are in clear on this side",
            ));
        }
        let default = self.listen.is_empty();
        let mut listen = self.listen;
        let mut listen_if_possible = Vec::new();
        let ports = [default.then_some(PORT), self.ollama.then_some(OLLAMA_PORT)];
        for port in ports.into_iter().flatten() {
            listen.push((Ipv4Addr::LOCALHOST, port).into());
            listen_if_possible.push((Ipv6Addr::LOCALHOST, port).into());
        }
        let timeout = self.timeout_secs.unwrap_or(DEFAULT_TIMEOUT_SECS);
        if !(1..=3600).contains(&timeout) {
            return Err(invalid("--timeout-secs", "must be from 1 to 3600"));
        }
        let cover = self.cover.resolve();
        if cover.is_some() && self.speculate {
            return Err(invalid(
                "--cover",
                "excludes --speculate: a request that is sent ahead would show that a completion was accepted",
            ));
        }
        let repository = match self.context {
            ContextSource::Off => None,
            ContextSource::Repo => {
                let directory = self.work_tree.unwrap_or_else(|| PathBuf::from("."));
                Some(Repository::open(&directory).map_err(|error| invalid("--context repo", error))?)
            }
        };
        Ok(Listening {
            listen,
            listen_if_possible,
            socket: self.socket,
            inherited: Inherited::take(),
            allowed_origins: self.allow_origin.iter().map(|text| origin(text)).collect::<Result<_, _>>()?,
            any_user: self.any_user,
            token: self
                .token
                .map(|path| AccessToken::of_file(&path).map_err(|error| invalid("--token", error)))
                .transpose()?,
            layout: self.hole,
            whole_below: self.whole_below.unwrap_or(DEFAULT_WHOLE_BELOW),
            repository,
            speculate: self.speculate,
            cover,
            timeout: Duration::from_secs(timeout),
            verdict_log: self.verdict_log,
            pin_first: self.pin_first,
            golden: Golden::default(),
            notify: self.notify.filter(|name| !name.is_empty()),
        })
    }
}

impl Listening {
    fn with(
        self,
        servers: Vec<Origin>,
        keys: WrapConfig,
        policy: Option<Policy>,
        policy_name: Option<String>,
    ) -> ProxyConfig {
        ProxyConfig {
            servers,
            keys,
            policy,
            policy_name,
            listen: self.listen,
            listen_if_possible: self.listen_if_possible,
            socket: self.socket,
            inherited: self.inherited,
            allowed_origins: self.allowed_origins,
            any_user: self.any_user,
            token: self.token,
            layout: self.layout,
            whole_below: self.whole_below,
            repository: self.repository,
            debounce: DEBOUNCE,
            speculate: self.speculate,
            cover: self.cover,
            timeout: self.timeout,
            write_timeout: WRITE_TIMEOUT,
            verdict_log: self.verdict_log,
            pin_first: self.pin_first,
            golden: self.golden,
            timing: Timing::default(),
            notify: self.notify,
        }
    }
}

impl ProxyConfig {
    /// A proxy for tests and demos: any free port of loopback, no policy.
    pub fn for_server(server: Origin, keys: WrapConfig) -> Self {
        let listening = Listening {
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            listen_if_possible: Vec::new(),
            socket: None,
            inherited: Inherited::default(),
            allowed_origins: Vec::new(),
            any_user: false,
            token: None,
            layout: HoleStart::Cursor,
            whole_below: DEFAULT_WHOLE_BELOW,
            repository: None,
            speculate: false,
            cover: None,
            timeout: Duration::from_secs(DEFAULT_TIMEOUT_SECS),
            verdict_log: None,
            pin_first: false,
            golden: Golden::default(),
            notify: None,
        };
        listening.with(vec![server], keys, None, None)
    }
}

#[cfg(all(feature = "server", feature = "sandbox"))]
impl DemoListen {
    /// The whole settings, now that there is a server.
    pub fn with(self, server: Origin, keys: WrapConfig, policy: Option<Policy>) -> ProxyConfig {
        let name = policy.as_ref().map(|_| "the demo's policy".to_owned());
        self.listening.with(vec![server], keys, policy, name)
    }
}

/// An origin as browsers write it: scheme, host, and the port if it is not the scheme's.
fn origin(text: &str) -> Result<HeaderValue, SettingsError> {
    let wrong = || {
        invalid("--allow-origin", "must be an origin, such as https://editor.example or vscode-file://app")
    };
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let is_origin =
        uri.scheme().is_some() && uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none();
    if !is_origin || !matches!(uri.path(), "" | "/") || text.contains(['@', '*']) {
        return Err(wrong());
    }
    HeaderValue::from_str(text.trim_end_matches('/')).map_err(|_| wrong())
}
