//! Every spelling of every path that editors use, and what is said about those that lead nowhere.
//!
//! Pure.

use http::Method;

use crate::proxy::dialect::Endpoint;
use crate::proxy::error::ErrorShape;
use crate::proxy::page::Page;

/// Files that browsers look for beside any page.
const AUTOMATIC: &[&str] = &[
    "apple-touch-icon-precomposed.png",
    "apple-touch-icon.png",
    "browserconfig.xml",
    "favicon.png",
    "favicon.svg",
    "manifest.json",
    "manifest.webmanifest",
    "robots.txt",
    "site.webmanifest",
    "sitemap.xml",
];

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// A completion.
    Complete(Endpoint),
    /// What editors ask before they send anything.
    Info(Info),
    /// A file of the status page.
    Page(Page),
    /// The state for programs.
    Status,
    /// A completion for the status page's playground.
    Playground,
    /// Nothing is there; this may be what was meant.
    Wrong(Hint),
}

/// What editors ask before they send anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Info {
    /// `GET /`, which is the page for a browser and Ollama's greeting for others.
    Root,
    /// llama.cpp's `/health`.
    Health,
    /// Tabby's `/v1/health`.
    TabbyHealth,
    Models,
    Model(String),
    Props,
    Slots,
    Tokenize,
    OllamaVersion,
    OllamaTags,
    OllamaPs,
    OllamaShow,
}

/// What may have been meant by a path that leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// A request was sent to the base URL itself.
    BaseUrl,
    Embeddings,
    Responses,
    /// Browsers and their tools ask for it by themselves: no setting of an editor is wrong.
    Automatic,
    Unknown,
}

impl Route {
    /// What `method` and `path` are for. A trailing slash, a `/v1` too few or too many, and a path given twice are
    /// mistakes that editors' settings invite.
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let versioned = parts.first() == Some(&"v1");
        while matches!(parts.first(), Some(&("v1" | "beta" | "openai"))) {
            parts.remove(0);
        }
        if let ["engines" | "deployments", _, ..] = parts.as_slice() {
            parts.drain(..2);
        }
        match parts.as_slice() {
            [] if *method == Method::GET || *method == Method::HEAD => Self::Info(Info::Root),
            [] => Self::Wrong(Hint::BaseUrl),
            ["api", rest @ ..] => Self::ollama(rest),
            [.., "fim", "completions"] => Self::Complete(Endpoint::FimCompletions),
            [.., "chat", "completions"] => Self::Complete(Endpoint::ChatCompletions),
            ["completions" | "completion", "v1", "completions"] | ["completions", "completions"] => {
                Self::Complete(Endpoint::Completions)
            }
            ["completions"] => Self::Complete(Endpoint::Completions),
            // Tabby's and Continue's are OpenAI's with a letter missing; llama.cpp's own has no version.
            ["completion"] if versioned => Self::Complete(Endpoint::Completions),
            ["completion"] => Self::Complete(Endpoint::LlamaCompletion),
            ["infill"] => Self::Complete(Endpoint::Infill),
            ["models"] => Self::Info(Info::Models),
            ["models", id @ ..] => Self::Info(Info::Model(id.join("/"))),
            ["health"] if versioned => Self::Info(Info::TabbyHealth),
            ["health"] => Self::Info(Info::Health),
            ["props"] => Self::Info(Info::Props),
            ["slots"] => Self::Info(Info::Slots),
            ["tokenize"] => Self::Info(Info::Tokenize),
            ["status"] => Self::Status,
            ["playground"] => Self::Playground,
            ["page.css"] => Self::Page(Page::Style),
            ["page.js"] => Self::Page(Page::Script),
            ["favicon.ico"] => Self::Page(Page::Icon),
            ["responses", ..] => Self::Wrong(Hint::Responses),
            ["embeddings" | "embedding", ..] => Self::Wrong(Hint::Embeddings),
            [".well-known", ..] => Self::Wrong(Hint::Automatic),
            [name] if AUTOMATIC.contains(name) => Self::Wrong(Hint::Automatic),
            _ => Self::Wrong(Hint::Unknown),
        }
    }

    fn ollama(parts: &[&str]) -> Self {
        match parts {
            ["generate"] => Self::Complete(Endpoint::OllamaGenerate),
            ["chat"] => Self::Complete(Endpoint::OllamaChat),
            ["version"] => Self::Info(Info::OllamaVersion),
            ["tags"] => Self::Info(Info::OllamaTags),
            ["ps"] => Self::Info(Info::OllamaPs),
            ["show"] => Self::Info(Info::OllamaShow),
            ["embed" | "embeddings"] => Self::Wrong(Hint::Embeddings),
            // `/api/v1/…`: a base URL that ends in `/api`.
            ["v1", ..] => Self::of(&Method::POST, &parts.join("/")),
            _ => Self::Wrong(Hint::Unknown),
        }
    }

    /// Whether it has such a method.
    pub(super) fn allows(&self, method: &Method) -> bool {
        let reads = *method == Method::GET || *method == Method::HEAD;
        match self {
            Self::Complete(_) | Self::Playground => *method == Method::POST,
            Self::Info(Info::OllamaShow | Info::Tokenize) => *method == Method::POST,
            // Tabby's agent has asked for health with POST in older versions.
            Self::Info(Info::TabbyHealth | Info::Health) => reads || *method == Method::POST,
            Self::Info(_) | Self::Page(_) | Self::Status => reads,
            Self::Wrong(_) => true,
        }
    }

    /// What the status page calls it, if it is one that editors use.
    pub(super) fn endpoint(&self) -> Option<&'static str> {
        match self {
            Self::Complete(endpoint) => Some(endpoint.name()),
            Self::Info(info) => info.name(),
            Self::Page(_) | Self::Status | Self::Playground | Self::Wrong(_) => None,
        }
    }

    /// The shape of its errors.
    pub(super) fn error_shape(&self) -> ErrorShape {
        match self {
            Self::Complete(endpoint) => endpoint.error_shape(),
            Self::Info(Info::Props | Info::Slots | Info::Tokenize | Info::Health) => ErrorShape::Llama,
            Self::Info(Info::OllamaVersion | Info::OllamaTags | Info::OllamaPs | Info::OllamaShow) => {
                ErrorShape::Ollama
            }
            _ => ErrorShape::OpenAi,
        }
    }
}

impl Info {
    /// What the status page calls it. The root is opened by people.
    fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Root => return None,
            Self::Health => "/health",
            Self::TabbyHealth => "/v1/health",
            Self::Models | Self::Model(_) => "/v1/models",
            Self::Props => "/props",
            Self::Slots => "/slots",
            Self::Tokenize => "/tokenize",
            Self::OllamaVersion => "/api/version",
            Self::OllamaTags => "/api/tags",
            Self::OllamaPs => "/api/ps",
            Self::OllamaShow => "/api/show",
        })
    }
}

impl Endpoint {
    /// What the status page calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::FimCompletions => "/v1/fim/completions",
            Self::ChatCompletions => "/v1/chat/completions",
            Self::LlamaCompletion => "/completion",
            Self::Infill => "/infill",
            Self::OllamaGenerate => "/api/generate",
            Self::OllamaChat => "/api/chat",
        }
    }
}

impl Hint {
    /// What to do instead.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::BaseUrl => {
                "this is the base URL: completions are at /v1/completions, so give the editor http://HOST:PORT/v1 as \
                 its base URL, or the whole path if it wants that"
            }
            Self::Embeddings => {
                "there are no embeddings here: this model completes code, so turn off indexing in the editor or give \
                 it another embeddings provider"
            }
            Self::Responses => {
                "there is no Responses API here: choose the provider for OpenAI-compatible servers (chat completions) \
                 in the editor's settings"
            }
            Self::Automatic => "there is no such file here",
            Self::Unknown => {
                "nothing is at this path: the base URL for OpenAI clients ends in /v1, that for llama.cpp and Ollama \
                 clients has no path"
            }
        }
    }

    /// What the status page calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::BaseUrl => "(the base URL)",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Automatic | Self::Unknown => "(an unknown path)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(path: &str) -> Route {
        Route::of(&Method::POST, path)
    }

    #[test]
    fn every_spelling_of_the_completion_path_works() {
        for path in [
            "/v1/completions",
            "/v1/completions/",
            "//v1//completions",
            "/completions",
            "/v1/v1/completions",
            "/v1/completion",
            "/v1/completions/completions",
            "/completions/v1/completions",
            "/v1/engines/codegemma/completions",
            "/v1/beta/completions",
            "/beta/completions",
            "/openai/deployments/x/completions",
            "/api/v1/completions",
        ] {
            assert_eq!(post(path), Route::Complete(Endpoint::Completions), "{path}");
        }
        for (path, endpoint) in [
            ("/completion", Endpoint::LlamaCompletion),
            ("/infill", Endpoint::Infill),
            ("/v1/infill", Endpoint::Infill),
            ("/fim/completions", Endpoint::FimCompletions),
            ("/v1/fim/completions", Endpoint::FimCompletions),
            ("/v1/chat/completions", Endpoint::ChatCompletions),
            ("/chat/completions", Endpoint::ChatCompletions),
            ("/v1/chat/completions/chat/completions", Endpoint::ChatCompletions),
            ("/api/generate", Endpoint::OllamaGenerate),
            ("/api/chat", Endpoint::OllamaChat),
            ("/api/chat/", Endpoint::OllamaChat),
        ] {
            assert_eq!(post(path), Route::Complete(endpoint), "{path}");
        }
    }

    #[test]
    fn what_leads_nowhere_says_where_to_go() {
        for (path, hint) in [
            ("/", Hint::BaseUrl),
            ("/v1", Hint::BaseUrl),
            ("/v1/", Hint::BaseUrl),
            ("/v1/responses", Hint::Responses),
            ("/v1/embeddings", Hint::Embeddings),
            ("/api/embed", Hint::Embeddings),
            ("/v1/nothing", Hint::Unknown),
            ("/..", Hint::Unknown),
            ("/.well-known/appspecific/com.chrome.devtools.json", Hint::Automatic),
            ("/robots.txt", Hint::Automatic),
            ("/v1/robots.txt/x", Hint::Unknown),
        ] {
            assert_eq!(post(path), Route::Wrong(hint), "{path}");
        }
    }

    #[test]
    fn editors_find_what_they_ask_for_first() {
        let get = |path: &str| Route::of(&Method::GET, path);
        for (path, info) in [
            ("/", Info::Root),
            ("/v1", Info::Root),
            ("/health", Info::Health),
            ("/v1/health", Info::TabbyHealth),
            ("/models", Info::Models),
            ("/v1/models/", Info::Models),
            ("/v1/models/a/b", Info::Model("a/b".to_owned())),
            ("/props", Info::Props),
            ("/slots", Info::Slots),
            ("/api/tags", Info::OllamaTags),
            ("/api/version", Info::OllamaVersion),
            ("/api/ps", Info::OllamaPs),
        ] {
            assert_eq!(get(path), Route::Info(info), "{path}");
        }
        assert!(!get("/v1/completions").allows(&Method::GET));
        assert!(!post("/v1/models").allows(&Method::POST));
    }
}
