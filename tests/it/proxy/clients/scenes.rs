//! A proxy for each situation that a client can meet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use codeseal::proxy::{AccessToken, Proxy, ProxyConfig, Repository};
use codeseal::server::ServerConfig;
use codeseal::server::Shaping;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{ENDLESS, Employee, Server, World, clean, http};
use crate::proxy::between::{Between, Passes};
use crate::proxy::verify::{OTHER, good, verifying};
use crate::proxy::{config, url};

/// What the proxy of the scene `token` demands.
const TOKEN: &str = "a-token-of-some-length";
/// More tokens than a client waits for before it cancels.
const MANY_TOKENS: usize = 4000;
/// Tokens of the stream that keeps a server's only slot: its frames are larger than all socket buffers, and its client takes
/// one of them, so that its text is not complete before the tests end.
const ENDLESS_TOKENS: usize = 8000;
/// Longer than all tests.
const LONG: Duration = Duration::from_secs(600);

/// A situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scene {
    /// All is well, and the server is verified.
    Good,
    /// All is well for those that bring the token; there is no policy.
    Token,
    /// Nothing listens where the server should be.
    Down,
    /// The server runs another image than the policy names.
    NotVerified,
    /// The server's only slot is taken.
    Busy,
    /// Each sealed stream breaks off after some frames.
    Cut,
}

/// All situations at once, in one world.
pub(super) struct Scenes {
    _world: World,
    /// The server of all scenes but [`Scene::Down`] and [`Scene::Busy`].
    pub(super) server: Server,
    employee: Employee,
    proxies: BTreeMap<Scene, Proxy>,
    dir: TempDir,
    /// Holds the log of the good scene's verdicts, and its repository.
    _verified: TempDir,
    _busy: Server,
    _slot: Mutex<reqwest::Response>,
    _cutting: Between,
    _forwarding: (watch::Sender<bool>, AbortOnDropHandle<()>),
}

impl Scene {
    pub(super) const ALL: [Self; 6] =
        [Self::Good, Self::Token, Self::Down, Self::NotVerified, Self::Busy, Self::Cut];

    /// As drivers call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Token => "token",
            Self::Down => "down",
            Self::NotVerified => "not_verified",
            Self::Busy => "busy",
            Self::Cut => "cut",
        }
    }

    pub(super) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|scene| scene.name() == name).expect("a scene of this name")
    }

    fn key(self) -> &'static str {
        if self == Self::Token { TOKEN } else { "none" }
    }
}

impl Scenes {
    pub(super) async fn new() -> Self {
        let (dir, verified) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let world = World::start().await;
        let mut settings = world.config();
        settings.limits.max_new_tokens = MANY_TOKENS;
        // Guessed right, text without an end would be made before a client cancels it.
        settings.engine.draft_tokens = 0;
        let server = Server::start(settings).await;
        let employee = world.employee().await;
        let busy = Server::start(one_slot(&world)).await;
        let cutting = Between::start(server.url(""), Passes::All).await;
        // The proxy connects to a server that is quick, and its clients meet one that is busy.
        let (forwarder, switch, forwarding) =
            forwarder(server.service.address(), busy.service.address()).await;

        let mut proxies = BTreeMap::new();
        for scene in Scene::ALL {
            let settings = match scene {
                Scene::Good => ProxyConfig {
                    repository: Some(repository(verified.path())),
                    ..verifying(&world, &server, &verified, &good())
                },
                Scene::Token => ProxyConfig {
                    token: Some(AccessToken::new(TOKEN.to_owned()).unwrap()),
                    ..config(&world, &server.url(""))
                },
                Scene::Down => config(&world, "http://127.0.0.1:1"),
                Scene::NotVerified => verifying(&world, &server, &dir, OTHER),
                Scene::Busy => config(&world, &forwarder),
                Scene::Cut => config(&world, &cutting.url),
            };
            // Every stream that a client requests is one on the line as well.
            let proxy = Proxy::start(ProxyConfig { whole_below: 0, ..settings }).await.unwrap();
            if matches!(scene, Scene::Down | Scene::NotVerified) {
                proxy.tried().await
            } else {
                proxy.ready().await
            }
            proxies.insert(scene, proxy);
        }
        let slot = Mutex::new(occupy(&world, &busy).await);
        switch.send_replace(true);
        cutting.set(Passes::Cut(2));
        let scenes = Self {
            _world: world,
            server,
            employee,
            proxies,
            dir,
            _verified: verified,
            _busy: busy,
            _slot: slot,
            _cutting: cutting,
            _forwarding: (switch, forwarding),
        };
        scenes.write_snippets().await;
        scenes
    }

    /// Where drivers find a directory for each scene with what `--editor` prints for that scene's proxy.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What drivers are told of the scenes.
    pub(super) fn to_json(&self) -> Value {
        let scenes = Scene::ALL.into_iter().map(|scene| {
            let one = json!({ "url": self.url(scene), "key": scene.key() });
            (scene.name().to_owned(), one)
        });
        Value::Object(scenes.collect())
    }

    pub(super) fn url(&self, scene: Scene) -> String {
        url(self.proxy(scene))
    }

    /// The text that the server continues `body` with, asked without a proxy.
    pub(super) async fn expected(&self, body: Value) -> String {
        let (status, body) = self.server.ask(&self.employee, "/v1/completions", body).await;
        assert_eq!(status, 200, "{body}");
        body["choices"][0]["text"].as_str().unwrap().to_owned()
    }

    /// `/status` of a scene's proxy.
    pub(super) async fn status(&self, scene: Scene) -> Value {
        let request = http().get(format!("{}/status", self.url(scene))).bearer_auth(scene.key());
        request.send().await.unwrap().json().await.unwrap()
    }

    fn proxy(&self, scene: Scene) -> &Proxy {
        self.proxies.get(&scene).expect("each scene has a proxy")
    }

    async fn write_snippets(&self) {
        let token = self.dir.path().join("token.txt");
        std::fs::write(&token, TOKEN).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        for scene in Scene::ALL {
            let dir = self.dir.path().join(scene.name());
            std::fs::create_dir(&dir).unwrap();
            for editor in super::snippets::EDITORS {
                let address = self.proxy(scene).addresses().first().unwrap().to_string();
                let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
                command.args(["proxy", "--editor", editor, "--listen", &address]).kill_on_drop(true);
                if scene == Scene::Token {
                    command.arg("--token").arg(&token);
                }
                let output = command.output().await.unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                std::fs::write(dir.join(editor), output.stdout).unwrap();
            }
        }
    }
}

/// A repository in `dir`, of a file that imports another one.
fn repository(dir: &Path) -> Repository {
    let root = dir.join("repository");
    std::fs::create_dir_all(root.join(".git")).unwrap();
    std::fs::write(root.join("main.py"), "import prices\n").unwrap();
    std::fs::write(root.join("prices.py"), "first_price = 1\nsecond_price = 2\n").unwrap();
    Repository::open(&root).unwrap()
}

/// A server that takes one request at a time, and sends the frames of a stream very slowly.
fn one_slot(world: &World) -> ServerConfig {
    let mut config = world.config();
    (config.engine.max_running, config.engine.max_waiting) = (1, 0);
    config.shaping = Shaping::Off;
    config.limits.max_new_tokens = ENDLESS_TOKENS;
    (config.limits.request_timeout, config.limits.write_timeout) = (LONG, LONG);
    config
}

/// Forwards connections to `first`, and from the switch on to `second`: those to the first then end.
async fn forwarder(
    first: SocketAddr,
    second: SocketAddr,
) -> (String, watch::Sender<bool>, AbortOnDropHandle<()>) {
    let (switch, state) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut state = state.clone();
            tokio::spawn(async move {
                let to = if *state.borrow_and_update() { second } else { first };
                let Ok(mut server) = TcpStream::connect(to).await else { return };
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = state.changed() => {}
                }
            });
        }
    });
    (url, switch, AbortOnDropHandle::new(task))
}

/// Keeps the only slot of `server`, for as long as the answer is not dropped.
async fn occupy(world: &World, server: &Server) -> reqwest::Response {
    let employee = world.employee().await;
    let sealed = employee
        .seal("/v1/completions", &json!({ "prompt": ENDLESS, "stream": true, "max_tokens": ENDLESS_TOKENS }));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut answer = client.post(server.url("/v1/completions")).json(&sealed.body).send().await.unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
    answer
}
