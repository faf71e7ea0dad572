//! What a server must be before a key is wrapped for it: a TOML file, strict, validated.
//!
//! Fail closed: a policy that pins no image is refused, and so is anything unknown in it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::attestation::Profile;
use crate::attestation::pki::PinnedRoot;
use crate::attestation::verify::{GOOGLE_ISSUER, GOOGLE_JWKS};
use crate::files::{self, ReadError};
use crate::protocol::{AUDIENCE_PREFIX, Digest, TokenType};

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The audience unless the policy names another.
const DEFAULT_AUDIENCE: &str = "codeseal:verify";

/// A validated policy. An empty list is a question that is not asked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What kind of VM.
    pub profile: Profile,
    /// Who signs tokens.
    pub issuer: String,
    /// Whom tokens are for.
    pub audience: String,
    /// What signatures are verified with.
    pub anchor: Anchor,
    /// One of these images ...
    pub image_digests: Vec<Digest>,
    /// ... or any that is signed with one of these keys; both if both are given.
    pub image_signers: Vec<String>,
    /// Names that the image may be pulled by.
    pub image_references: Vec<String>,
    /// One of these is among the VM's service accounts.
    pub service_accounts: Vec<String>,
    /// Projects that the VM may be in.
    pub projects: Vec<String>,
    /// Executables.
    pub builds: Vec<Digest>,
    /// Models.
    pub weights: Vec<Digest>,
    /// The identities of GPUs.
    pub gpus: Vec<String>,
    /// The SHA-256 of the file that it was read from.
    pub digest: Digest,
}

/// What signatures are verified with.
#[derive(Clone, Debug)]
pub enum Anchor {
    /// The keys at this address.
    JwksUrl(String),
    /// The keys in this file.
    JwksFile(PathBuf),
    /// The certificates in the token, which must lead to this one.
    Root(Box<PinnedRoot>),
}

/// Why a policy cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It, or a file that it names, cannot be read.
    #[error("cannot read {path} for --policy: {why}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// It is not TOML, or holds something unknown.
    #[error("line {line} of the policy: {message}")]
    Parse {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A value is not what it must be.
    #[error("`{key}` in the policy {must}")]
    Invalid {
        /// Which value.
        key: &'static str,
        /// What it must be.
        must: String,
    },
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    profile: String,
    issuer: Option<String>,
    audience: Option<String>,
    #[serde(default)]
    token_type: Kind,
    jwks: Option<String>,
    pki_root: Option<PathBuf>,
    #[serde(default)]
    image_digests: Vec<String>,
    #[serde(default)]
    image_signers: Vec<String>,
    #[serde(default)]
    image_references: Vec<String>,
    #[serde(default)]
    service_accounts: Vec<String>,
    #[serde(default)]
    projects: Vec<String>,
    #[serde(default)]
    builds: Vec<String>,
    #[serde(default)]
    weights: Vec<String>,
    #[serde(default)]
    gpus: Vec<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Oidc,
    Pki,
}

impl Policy {
    /// Reads the policy in `path`; files that it names are looked for beside it.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let text = read(path)?;
        let text = String::from_utf8(text).map_err(|_| unreadable(path, &ReadError::NotUtf8))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// What kind of token is asked for.
    pub(super) fn token_type(&self) -> TokenType {
        match self.anchor {
            Anchor::JwksUrl(_) | Anchor::JwksFile(_) => TokenType::Oidc,
            Anchor::Root(_) => TokenType::Pki,
        }
    }

    fn parse(text: &str, directory: &Path) -> Result<Self, PolicyError> {
        let file: PolicyFile = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|&byte| byte == b'\n').count() + 1;
            PolicyError::Parse { line, message: error.message().replace('\n', ", ") }
        })?;
        if file.image_digests.is_empty() && file.image_signers.is_empty() {
            let must = "or `image_signers` must name at least one: without, any image would be trusted";
            return Err(invalid("image_digests", must));
        }
        let audience = file.audience.unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned());
        if audience.strip_prefix(AUDIENCE_PREFIX).is_none_or(str::is_empty) {
            return Err(invalid("audience", format_args!("must begin with {AUDIENCE_PREFIX}")));
        }
        Ok(Self {
            profile: file.profile.parse().map_err(|error| invalid("profile", error))?,
            issuer: file.issuer.unwrap_or_else(|| GOOGLE_ISSUER.to_owned()),
            audience,
            anchor: anchor(file.token_type, file.jwks, file.pki_root, directory)?,
            image_digests: digests("image_digests", file.image_digests)?,
            image_signers: fingerprints("image_signers", file.image_signers)?,
            image_references: file.image_references,
            service_accounts: file.service_accounts,
            projects: file.projects,
            builds: digests("builds", file.builds)?,
            weights: digests("weights", file.weights)?,
            gpus: file.gpus,
            digest: Digest::of(text.as_bytes()),
        })
    }
}

fn anchor(
    kind: Kind,
    jwks: Option<String>,
    pki_root: Option<PathBuf>,
    directory: &Path,
) -> Result<Anchor, PolicyError> {
    match (kind, jwks, pki_root) {
        (Kind::Oidc, None, None) => Ok(Anchor::JwksUrl(GOOGLE_JWKS.to_owned())),
        (Kind::Oidc, Some(url), None) if url.contains("://") => {
            if url.starts_with("https://") || is_loopback(&url) {
                Ok(Anchor::JwksUrl(url))
            } else {
                Err(invalid("jwks", "must be a file or begin with https://"))
            }
        }
        (Kind::Oidc, Some(file), None) => Ok(Anchor::JwksFile(directory.join(file))),
        (Kind::Oidc, _, Some(_)) => Err(invalid("pki_root", "is for `token_type = \"pki\"`")),
        (Kind::Pki, Some(_), _) => Err(invalid("jwks", "is for `token_type = \"oidc\"`")),
        (Kind::Pki, None, root) => {
            let root = match root {
                Some(file) => PinnedRoot::from_pem(&read(&directory.join(file))?),
                None => PinnedRoot::google(),
            };
            Ok(Anchor::Root(Box::new(root.map_err(|error| invalid("pki_root", error))?)))
        }
    }
}

/// The sandbox serves its keys on this machine, without TLS.
fn is_loopback(url: &str) -> bool {
    cfg!(feature = "sandbox")
        && url.parse::<http::Uri>().is_ok_and(|uri| {
            uri.scheme_str() == Some("http") && uri.host() == Some("127.0.0.1") && !url.contains('@')
        })
}

fn digests(key: &'static str, texts: Vec<String>) -> Result<Vec<Digest>, PolicyError> {
    texts.iter().map(|text| text.parse().map_err(|error| invalid(key, error))).collect()
}

fn fingerprints(key: &'static str, texts: Vec<String>) -> Result<Vec<String>, PolicyError> {
    let is_one = |text: &String| {
        text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if texts.iter().all(is_one) {
        Ok(texts)
    } else {
        Err(invalid(key, "must be the SHA-256 of public keys: 64 hexadecimal digits in lower case"))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PolicyError> {
    files::read_argument(path, MAX_BYTES).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &ReadError) -> PolicyError {
    // Escaped: a name may hold anything.
    PolicyError::Read { path: format!("{:?}", path.display().to_string()), why: error.to_string() }
}

fn invalid(key: &'static str, must: impl ToString) -> PolicyError {
    PolicyError::Invalid { key, must: must.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str =
        "image_digests = ['sha256:fa126b4bf1014fb4c1b6786039e483eca21d51ed960083dc8439c1d8539559ae']";

    fn parse(text: &str) -> Result<Policy, PolicyError> {
        Policy::parse(text, Path::new("/policies"))
    }

    #[test]
    fn google_is_the_default() {
        let policy = parse(&format!("profile = 'tdx'\n{IMAGE}")).unwrap();
        assert_eq!(policy.issuer, GOOGLE_ISSUER);
        assert_eq!(policy.token_type(), TokenType::Oidc);
        assert!(matches!(&policy.anchor, Anchor::JwksUrl(url) if url == GOOGLE_JWKS));
        let pki = parse(&format!("profile = 'tdx'\ntoken_type = 'pki'\n{IMAGE}")).unwrap();
        assert!(matches!(pki.anchor, Anchor::Root(_)) && pki.token_type() == TokenType::Pki);
        let file = parse(&format!("profile = 'tdx'\njwks = 'keys.json'\n{IMAGE}")).unwrap();
        assert!(matches!(&file.anchor, Anchor::JwksFile(path) if path == Path::new("/policies/keys.json")));
    }

    #[test]
    fn a_policy_must_pin_an_image() {
        let error = parse("profile = 'tdx'").unwrap_err();
        assert!(matches!(error, PolicyError::Invalid { key: "image_digests", .. }), "{error}");
        let signer = format!("profile = 'tdx'\nimage_signers = ['{}']", "0a".repeat(32));
        assert!(parse(&signer).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, key) in [
            ("audience = 'https://sts.googleapis.com'", "audience"),
            ("audience = 'codeseal:'", "audience"),
            ("jwks = 'http://example.com/jwks'", "jwks"),
            ("jwks = 'http://127.0.0.1@example.com/jwks'", "jwks"),
            ("token_type = 'pki'\njwks = 'keys.json'", "jwks"),
            ("pki_root = 'root.pem'", "pki_root"),
            ("builds = ['sha256:12']", "builds"),
            ("weights = ['12']", "weights"),
            ("image_signers = ['SHA256:12']", "image_signers"),
        ] {
            match parse(&format!("profile = 'tdx'\n{IMAGE}\n{more}")).unwrap_err() {
                PolicyError::Invalid { key: named, .. } => assert_eq!(named, key),
                other => panic!("{more}: {other}"),
            }
        }
        let error = parse(&format!("profile = 'sgx'\n{IMAGE}")).unwrap_err();
        assert!(matches!(error, PolicyError::Invalid { key: "profile", .. }));
    }

    #[test]
    fn a_typo_is_not_silence() {
        let error = parse(&format!("profile = 'tdx'\n{IMAGE}\nimage_digest = 'x'")).unwrap_err();
        let PolicyError::Parse { line: 3, message } = error else { panic!("{error}") };
        assert!(message.contains("`image_digest`"), "{message}");
    }
}
