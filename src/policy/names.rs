//! Names that an operator must not be allowed to set: what a variable is, judged by its name; what a path holds.

/// What a variable decides, if that is dangerous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Danger {
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

/// Loaders, runtimes and shells run what these name.
const CODE: &[&str] =
    &["BASH_ENV", "ENV", "GCONV_PATH", "GLIBC_TUNABLES", "PATH", "SHELL", "JAVA_TOOL_OPTIONS"];
const CODE_PREFIXES: &[&str] = &["LD_", "DYLD_", "PYTHON", "PERL5", "NODE_", "RUBY", "CUDA_", "NVIDIA_"];

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
    /// What the variable `name` decides.
    pub(super) fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        if CODE.contains(&name.as_str()) || CODE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return Some(Self::Code);
        }
        let has = |words: &[&str]| {
            name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| words.contains(&word))
        };
        WORDS.iter().find(|(_, words)| has(words)).map(|&(danger, _)| danger)
    }

    /// Its name in a finding's code.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Address => "address",
            Self::Key => "key",
            Self::Path => "path",
            Self::Log => "log-level",
            Self::Policy => "policy",
        }
    }

    /// What whoever sets it decides.
    pub(super) fn decides(self) -> &'static str {
        match self {
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
        ] {
            assert_eq!(Danger::of(name), Some(danger), "{name}");
        }
        for harmless in ["CODESEAL_MAX_RUNNING", "MONKEY", "CATALOG", "TZ", "CODESEAL_QUANTIZE"] {
            assert_eq!(Danger::of(harmless), None, "{harmless}");
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
