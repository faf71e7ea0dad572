//! Names that an operator must not be allowed to set: what a variable is, judged by its name; what a path holds.

mod known;

pub use self::known::{KNOWN, Known};

/// What a variable decides, if that is dangerous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Danger {
    /// How the server itself works.
    Product,
    /// Which code runs.
    Code,
    /// Whom the workload talks to, or listens to.
    Address,
    /// A key, an identity or a secret.
    Key,
    /// Which files it reads or writes.
    Path,
    /// What it tells the outside.
    Log,
    /// What it checks.
    Policy,
}

/// In the order in which they are looked for: `LOG_LEVEL_URL` is an address first of all.
const WORDS: &[(Danger, &[&str])] = &[
    (
        Danger::Address,
        &[
            "ADDR", "ADDRESS", "AUDIENCE", "BUCKET", "DOMAIN", "ENDPOINT", "HOST", "ISSUER", "LISTEN",
            "PORT", "PROXY", "REGISTRY", "SERVER", "UNIVERSE", "URI", "URL",
        ],
    ),
    (
        Danger::Key,
        &[
            "ACCOUNT",
            "CERT",
            "CERTIFICATE",
            "CREDENTIAL",
            "CREDENTIALS",
            "IMPERSONATE",
            "KEY",
            "KEYS",
            "KMS",
            "PASSPHRASE",
            "PASSWORD",
            "SECRET",
            "TOKEN",
        ],
    ),
    (
        Danger::Path,
        &[
            "CACHE",
            "DIR",
            "DIRECTORY",
            "FILE",
            "FOLDER",
            "HOME",
            "MANIFEST",
            "MODEL",
            "PATH",
            "ROOT",
            "SOCKET",
            "TMPDIR",
        ],
    ),
    (Danger::Log, &["BACKTRACE", "DEBUG", "LEVEL", "LOG", "LOGGING", "LOGS", "TRACE", "VERBOSE"]),
    (
        Danger::Policy,
        &["ALLOW", "CHECK", "EXPIRY", "INSECURE", "POLICY", "PROFILE", "SKIP", "TRUST", "VERIFY"],
    ),
];

impl Danger {
    /// What the variable `name` controls: by its words, or by the program that reads it.
    pub(super) fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        let known = KNOWN.iter().find(|known| known.has(&name)).map(|known| known.danger);
        // What a word says of one of the product's own is more exact.
        if let Some(danger) = known.filter(|&danger| danger != Self::Product) {
            return Some(danger);
        }
        let has = |words: &[&str]| {
            name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| words.contains(&word))
        };
        WORDS.iter().find(|(_, words)| has(words)).map(|&(danger, _)| danger).or(known)
    }

    /// Its name in a finding's code.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::Code => "code",
            Self::Address => "address",
            Self::Key => "key",
            Self::Path => "path",
            Self::Log => "log-level",
            Self::Policy => "policy",
        }
    }

    /// What the operator controls by setting it.
    pub(super) fn decides(self) -> &'static str {
        match self {
            Self::Product => "how the server works",
            Self::Code => "which code runs inside the workload",
            Self::Address => "whom the workload talks to",
            Self::Key => "which key, identity or secret is used",
            Self::Path => "which files are read or written",
            Self::Log => "what is written to the log",
            Self::Policy => "what the workload checks",
        }
    }
}

/// Places of a container that something depends on; a mount hides what is there.
const SYSTEM: &[(&str, &str)] = &[
    ("/run/container_launcher", "the attestation token"),
    ("/usr/local/nvidia", "the GPU driver's libraries"),
    ("/etc", "certificates and name resolution"),
    ("/usr", "the program and its libraries"),
    ("/lib", "the program's libraries"),
    ("/lib64", "the program's libraries"),
    ("/bin", "programs"),
    ("/sbin", "programs"),
    ("/proc", "the kernel's files"),
    ("/sys", "the kernel's files"),
    ("/dev", "the devices"),
];

/// What a mount at `path` or below it could hide. `path` is absolute and clean.
pub(super) fn hides(path: &str) -> Option<&'static str> {
    let within = |inner: &str, outer: &str| {
        outer == "/" || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    SYSTEM.iter().find(|(place, _)| within(place, path) || within(path, place)).map(|&(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_judged_by_the_words_of_its_name() {
        for (name, danger) in [
            ("LD_PRELOAD", Danger::Code),
            ("ld_library_path", Danger::Code),
            ("PATH", Danger::Code),
            ("https_proxy", Danger::Address),
            ("CODESEAL_LISTEN", Danger::Address),
            ("CODESEAL_SANDBOX_ENDPOINT", Danger::Address),
            ("CODESEAL_KMS_KEY", Danger::Key),
            ("CODESEAL_WIP_AUDIENCE", Danger::Address),
            ("CODESEAL_IMPERSONATE", Danger::Key),
            ("CODESEAL_ATTESTATION_TOKEN", Danger::Key),
            ("CODESEAL_ATTESTATION_SOCKET", Danger::Path),
            ("CODESEAL_MODEL", Danger::Path),
            ("CODESEAL_LOG_LEVEL", Danger::Log),
            ("RUST_LOG", Danger::Log),
            ("RUST_BACKTRACE", Danger::Log),
            ("CODESEAL_PROFILE", Danger::Policy),
            ("CODESEAL_MAX_RUNNING", Danger::Product),
            ("CODESEAL_QUANTIZE", Danger::Product),
        ] {
            assert_eq!(Danger::of(name), Some(danger), "{name}");
        }
        for harmless in ["MAX_RUNNING", "MONKEY", "CATALOG", "TZ", "QUANTIZE", "LANG"] {
            assert_eq!(Danger::of(harmless), None, "{harmless}");
        }
    }

    #[test]
    fn variables_that_give_access_are_dangerous_in_every_runtime() {
        for name in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "_JAVA_OPTIONS",
            "JAVA_TOOL_OPTIONS",
            "JDK_JAVA_OPTIONS",
            "DOTNET_STARTUP_HOOKS",
            "CORECLR_PROFILER",
            "NODE_OPTIONS",
            "NODE_EXTRA_CA_CERTS",
            "PYTHONSTARTUP",
            "PYTHONPATH",
            "PERL5OPT",
            "PERL5LIB",
            "PERLLIB",
            "RUBYOPT",
            "GEM_PATH",
            "PHP_INI_SCAN_DIR",
            "PHPRC",
            "LUA_INIT",
            "LUA_PATH_5_4",
            "LUA_CPATH",
            "R_PROFILE_USER",
            "JULIA_LOAD_PATH",
            "ERL_AFLAGS",
            "GCONV_PATH",
            "LOCPATH",
            "MALLOC_CONF",
            "MALLOC_TRACE",
            "GLIBC_TUNABLES",
            "OPENSSL_CONF",
            "OPENSSL_MODULES",
            "SSL_CERT_FILE",
            "SSLKEYLOGFILE",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "CURL_HOME",
            "GODEBUG",
            "GOFLAGS",
            "GIT_SSH_COMMAND",
            "GIT_CONFIG_COUNT",
            "http_proxy",
            "ALL_PROXY",
            "no_proxy",
            "RES_OPTIONS",
            "HOSTALIASES",
            "LOCALDOMAIN",
            "KUBECONFIG",
            "PROMPT_COMMAND",
            "SHELLOPTS",
            "BASH_ENV",
            "ENV",
            "BASH_FUNC_ls%%",
            "PS4",
            "HISTFILE",
            "EDITOR",
            "PAGER",
            "LESSOPEN",
            "AWS_ENDPOINT_URL_S3",
            "AWS_CONFIG_FILE",
            "CLOUDSDK_CONFIG",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "STORAGE_EMULATOR_HOST",
            "PUBSUB_EMULATOR_HOST",
            "RUSTC_WRAPPER",
            "CARGO_HOME",
            "CUDA_INJECTION64_PATH",
            "NVIDIA_VISIBLE_DEVICES",
            "NCCL_NET_PLUGIN",
            "NCCL_DEBUG_FILE",
            "HF_ENDPOINT",
            "HF_HUB_OFFLINE",
            "TORCH_LOGS",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OMP_TOOL_LIBRARIES",
            "DOCKER_HOST",
            "VAULT_ADDR",
            "PGSERVICEFILE",
            "XDG_CONFIG_HOME",
            "HOME",
            "TMPDIR",
            "NOTIFY_SOCKET",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
            "TZDIR",
            "TERMINFO",
            "VIMINIT",
            "CLASSPATH",
            "UV_INDEX_URL",
            "PIP_INDEX_URL",
            "NPM_CONFIG_REGISTRY",
            "npm_config_registry",
            "CODESEAL_ANYTHING",
        ] {
            assert!(Danger::of(name).is_some(), "{name}");
        }
    }

    /// A variable is found by the first group that has it: none may stand where it can never be found.
    #[test]
    fn every_known_name_is_found_and_written_in_capitals() {
        for known in KNOWN {
            for pattern in known.names() {
                let name = pattern.replace('*', "X");
                assert!(Danger::of(&name).is_some() && known.has(&name), "{pattern}");
                assert_eq!(pattern.to_uppercase(), pattern);
                assert!(pattern.matches('*').count() <= 1 && pattern.len() > 1, "{pattern}");
            }
        }
    }

    #[test]
    fn a_mount_that_hides_something_is_told_from_a_scratch_directory() {
        for hiding in
            ["/", "/etc", "/etc/ssl/certs", "/run", "/run/container_launcher", "/usr/local/nvidia", "/usr"]
        {
            assert!(hides(hiding).is_some(), "{hiding}");
        }
        for free in ["/scratch", "/tmp", "/tmp/codeseal", "/etcetera", "/run/scratch", "/usrlocal"] {
            assert!(hides(free).is_none(), "{free}");
        }
    }
}
