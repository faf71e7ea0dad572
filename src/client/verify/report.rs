//! What was proven about a server and what was not, for people and for programs.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::printable::printable;
use super::saved::Saved;
use super::untrusted::Untrusted;
use crate::attestation::Profile;
use crate::protocol::{Digest, Identity};

/// The question about the container's image.
pub(super) const IMAGE_DIGEST: &str = "image digest";

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was asked.
    pub what: &'static str,
    /// What was found.
    pub found: Found,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is as the policy says: this value.
    Proven(String),
    /// It is not.
    Refused(Untrusted),
    /// The policy does not ask; the token says this.
    NotAsked(Option<String>),
}

/// The result of a verification.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub(super) findings: Vec<Finding>,
    pub(super) profile: Profile,
    /// Of the server that sent the token; bound to the token only if freshness was proven.
    pub(super) identity: Identity,
    pub(super) version: String,
    /// When the token expires, in seconds since 1970; zero if it could not be read.
    pub(super) expires: u64,
    /// How many seconds this machine's clock is ahead of when the token says it was made, if its time is the reason.
    pub(super) clock_ahead: Option<i128>,
    /// What it rests on.
    pub(super) saved: Saved,
    /// The SHA-256 of the policy's file.
    pub(super) policy: Digest,
}

/// What a server runs, as far as it was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurements {
    /// The hash of the executable.
    pub build: Digest,
    /// The hash over the model's files.
    pub weights: Digest,
    /// The digest of the container's image, if the token names one.
    pub image: Option<String>,
}

impl Measurements {
    /// What differs from `other`: its name, the value here, and the value there.
    pub fn differences(&self, other: &Self) -> Vec<(&'static str, String, String)> {
        let unknown = || "(not named)".to_owned();
        let image = |measured: &Self| measured.image.clone().unwrap_or_else(unknown);
        let all = [
            ("build", self.build.to_string(), other.build.to_string()),
            ("weights", self.weights.to_string(), other.weights.to_string()),
            ("image", image(self), image(other)),
        ];
        all.into_iter().filter(|(_, here, there)| here != there).collect()
    }
}

impl Verdict {
    /// What the server runs. It is proven only if the verdict is [`Verdict::trusted`].
    pub fn measurements(&self) -> Measurements {
        let image = self.findings.iter().find(|finding| finding.what == IMAGE_DIGEST);
        let image = image.and_then(|finding| match &finding.found {
            Found::Proven(digest) => Some(digest.clone()),
            Found::NotAsked(digest) => digest.clone(),
            Found::Refused(_) => None,
        });
        Measurements { build: self.identity.build, weights: self.identity.weights, image }
    }

    /// The server, if it is what the policy says.
    ///
    /// # Errors
    /// The first reason why it is not.
    pub fn trusted(&self) -> Result<Identity, Untrusted> {
        match self.reasons().next() {
            None => Ok(self.identity),
            Some(reason) => Err(reason),
        }
    }

    /// When this verdict is no longer one, in seconds since 1970.
    pub fn expires(&self) -> u64 {
        self.expires
    }

    fn reasons(&self) -> impl Iterator<Item = Untrusted> {
        self.findings.iter().filter_map(|finding| match finding.found {
            Found::Refused(reason) => Some(reason),
            _ => None,
        })
    }

    /// What no attestation of this kind can show, and what the policy does not ask.
    fn not_proven(&self) -> Vec<String> {
        let mut open: Vec<String> = match self.profile {
            Profile::Sandbox => vec!["anything at all: a sandbox signs whatever it is told".to_owned()],
            Profile::ShieldedPreview => vec![
                "memory: a Shielded VM does not encrypt it, so the host can read it".to_owned(),
                "GPU: nothing attests to it, and what crosses the bus and lies in it is in clear".to_owned(),
            ],
            Profile::Sev | Profile::Tdx => vec![
                "GPU: nothing attests to one, and what crosses the bus to it is in clear".to_owned(),
                "that there is no probe on the memory bus".to_owned(),
            ],
            Profile::TdxH100 => vec![
                "that the attested GPU is the one in this VM: the claims do not bind one to the other"
                    .to_owned(),
                "that there is no probe on the memory bus or between CPU and GPU".to_owned(),
            ],
        };
        open.push(
            "that this connection ends in the attested VM: what is sealed can be opened there only because the \
             key's own condition releases it to such a workload"
                .to_owned(),
        );
        for finding in &self.findings {
            if let Found::NotAsked(said) = &finding.found {
                let said = said.as_ref().map_or_else(String::new, |said| format!(", the token says {said}"));
                open.push(format!("{}: the policy does not ask{}", finding.what, printable(&said)));
            }
        }
        open
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let proven = self.findings.iter().filter_map(|finding| match &finding.found {
            Found::Proven(value) => Some((finding.what.to_owned(), Value::from(value.as_str()))),
            _ => None,
        });
        let refused = self.findings.iter().filter_map(|finding| match finding.found {
            Found::Refused(reason) => Some(json!({
                "what": finding.what,
                "kind": reason,
                "exit_code": reason.exit_code(),
                "message": reason.to_string(),
            })),
            _ => None,
        });
        let trusted = self.trusted();
        json!({
            "trusted": trusted.is_ok(),
            "exit_code": trusted.map_or_else(Untrusted::exit_code, |_| 0),
            "profile": self.profile,
            "encrypts_memory": self.profile.encrypts_memory(),
            "proven": serde_json::Map::from_iter(proven),
            "refused": refused.collect::<Vec<_>>(),
            "not_proven": self.not_proven(),
            "server": {
                "version": printable(&self.version),
                "build": self.identity.build,
                "weights": self.identity.weights,
                "id": self.identity.server,
            },
            "expires": self.expires,
            "clock_ahead_secs": self.clock_ahead.and_then(|secs| i64::try_from(secs).ok()),
        })
    }
}

/// For people.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        match self.trusted() {
            Ok(_) => writeln!(text, "trusted: the server is what the policy says")?,
            Err(reason) => writeln!(text, "NOT TRUSTED: {reason}")?,
        }
        if let Some(ahead) = self.clock_ahead {
            let (secs, side) = (ahead.unsigned_abs(), if ahead < 0 { "behind" } else { "ahead of" });
            writeln!(
                text,
                "this machine's clock is {secs} s {side} the time at which the token says it was made"
            )?;
        }
        writeln!(text, "\nproven")?;
        for finding in &self.findings {
            match &finding.found {
                Found::Proven(value) => writeln!(text, "  ✓ {:<16} {}", finding.what, printable(value))?,
                Found::Refused(reason) => writeln!(text, "  ✗ {:<16} {reason}", finding.what)?,
                Found::NotAsked(_) => {}
            }
        }
        writeln!(text, "\nnot proven")?;
        for open in self.not_proven() {
            writeln!(text, "  - {open}")?;
        }
        writeln!(text, "\nthe server says")?;
        writeln!(text, "  version {}", printable(&self.version))?;
        writeln!(text, "  build   {}", self.identity.build)?;
        writeln!(text, "  weights {}", self.identity.weights)?;
        write!(text, "  process {}", self.identity.server)?;
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::verify::saved::Keys;
    use crate::protocol::{Digest, ServerId};

    const HOSTILE: &str = "\u{202e}\u{2066}\u{200b}\u{2028}\u{9b}\x1b[2J\r\n\u{430}";

    fn verdict(text: &str) -> Verdict {
        let digest = Digest::new([1; 32]);
        Verdict {
            findings: vec![
                Finding { what: "signature", found: Found::Proven(text.to_owned()) },
                Finding { what: "project", found: Found::NotAsked(Some(text.to_owned())) },
                Finding { what: "build", found: Found::Refused(Untrusted::Build) },
            ],
            profile: Profile::Tdx,
            identity: Identity { build: digest, weights: digest, server: ServerId::generate().unwrap() },
            version: text.to_owned(),
            expires: 0,
            clock_ahead: None,
            saved: Saved {
                token: String::new(),
                nonces: Vec::new(),
                issuer: String::new(),
                audience: String::new(),
                at: 0,
                keys: Keys::Root(String::new()),
            },
            policy: digest,
        }
    }

    #[test]
    fn nothing_of_the_servers_reaches_the_terminal_unescaped() {
        let shown = verdict(HOSTILE).to_string();
        let strange = |c: &char| !matches!(c, '\n' | ' '..='~' | '\u{2713}' | '\u{2717}');
        assert_eq!(shown.chars().find(strange), None, "{shown}");
        // Not one line more than with an ordinary text.
        assert_eq!(shown.lines().count(), verdict("x").to_string().lines().count());
        assert_eq!(shown.matches("\\u{202e}").count(), 3, "{shown}");
    }

    #[test]
    fn nothing_of_the_servers_fills_the_terminal() {
        assert!(verdict(&"x".repeat(1 << 20)).to_string().len() < 4096);
    }
}
