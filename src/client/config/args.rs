//! The flags of `codeseal complete` and `codeseal verify`, as typed.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use crate::client::fim::Cursor;

/// The exit codes of `codeseal`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   the server, or the key service, refused
  2   wrong usage or configuration, or no valid Google credentials
  3   the server, or the key service, cannot be reached or does not answer in time
  4   the answer is not authentic: forged, or cut short; do not use what was printed
  10-34  the server is not what the policy says: see `codeseal verify --help`
  70  internal failure, or the output cannot be written

Settings are taken from the flags, then from the environment, then from
$XDG_CONFIG_HOME/codeseal/config.toml (~/.config/codeseal/config.toml).";

const VERDICTS: &str = "\
Exit codes: 0 trusted; 1, 2, 3, 70 as in `codeseal --help`; not trusted because of
  10 malformed token           11 not RS256               12 unknown key
  13 wrong signature           14 certificate chain       15 another issuer
  16 another audience          17 expired                 18 not yet valid (clock?)
  19 nonce, or identity not bound to it (replay?)         20 debug image
  21 no secure boot            22 arguments or environment overridden
  23 hardware or system        24 TDX firmware            25 VM image not stable
  26 no GPU in confidential mode                          27 image digest
  28 image reference           29 image signer            30 service account
  31 project                   32 build                   33 weights
  34 another GPU

The policy is TOML: profile (required), image_digests or image_signers (one of them required),
image_references, service_accounts, projects, builds, weights, gpus, audience, issuer,
token_type (oidc or pki), jwks, pki_root.";

/// The flags of `codeseal complete`, as typed. No `Debug`: the prompt may be among them.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct CompleteArgs {
    /// URL of the server, such as http://10.0.0.7:8080
    #[arg(long, env = "CODESEAL_SERVER", value_name = "URL", help_heading = "Server")]
    pub(super) server: Option<String>,

    /// Cloud KMS key that only the attested workload may use:
    /// projects/P/locations/L/keyRings/R/cryptoKeys/K
    #[arg(long, env = "CODESEAL_KMS_KEY", value_name = "NAME", help_heading = "Server")]
    pub(super) kms_key: Option<String>,

    /// Wrap the session's key with a sandbox on this machine instead of Cloud KMS
    #[cfg(feature = "sandbox")]
    #[arg(long, env = "CODESEAL_SANDBOX_ENDPOINT", value_name = "URL", help_heading = "Server")]
    pub(super) sandbox_endpoint: Option<String>,

    /// Verify the server against the policy before anything is sent, and again when another one answers
    #[arg(long, env = "CODESEAL_VERIFY", help_heading = "Verification")]
    pub(super) verify: bool,

    /// Policy for --verify: a TOML file, see `codeseal verify --help`
    #[arg(long, env = "CODESEAL_POLICY", value_name = "FILE", help_heading = "Verification")]
    pub(super) policy: Option<PathBuf>,

    /// Maximum of new tokens [default: the server's]
    #[arg(long, env = "CODESEAL_MAX_TOKENS", value_name = "N", help_heading = "Generation")]
    pub(super) max_tokens: Option<NonZeroUsize>,

    /// Sampling temperature, from 0 (greedy: the most likely token) to 2 [default: 0]
    #[arg(long, env = "CODESEAL_TEMPERATURE", value_name = "T", help_heading = "Generation")]
    pub(super) temperature: Option<f64>,

    /// Stop sequence: ends the completion and is not part of it; may be repeated
    #[arg(long, value_name = "TEXT", help_heading = "Generation")]
    pub(super) stop: Vec<String>,

    /// Print the text while it is being generated
    #[arg(long, help_heading = "Output")]
    pub(super) stream: bool,

    /// Complete at a cursor in a file; lines and columns count characters from 1
    #[arg(long, value_name = "FILE:LINE:COL", group = "input", help_heading = "Prompt")]
    pub(super) fim: Option<Cursor>,

    /// With --fim: maximum of bytes of the file around the cursor to send [default: 16384]
    #[arg(long, env = "CODESEAL_CONTEXT_BYTES", value_name = "N", help_heading = "Prompt")]
    pub(super) context_bytes: Option<NonZeroUsize>,

    /// Print to stderr what goes over the wire, which is all that the operator sees
    #[arg(long, help_heading = "Output")]
    pub(super) show_sealed: bool,

    /// Timeout of the whole answer, in seconds [default: 120]
    #[arg(long, env = "CODESEAL_TIMEOUT_SECS", value_name = "SECONDS", help_heading = "Server")]
    pub(super) timeout_secs: Option<u64>,

    /// Read the prompt from a file
    #[arg(long, value_name = "FILE", group = "input", help_heading = "Prompt")]
    pub(super) file: Option<PathBuf>,

    /// The text to continue; `-` reads it from stdin, which keeps it out of the process list
    #[arg(group = "input", required_unless_present_any = ["fim", "file"])]
    pub(super) prompt: Option<String>,
}

/// The flags of `codeseal verify`, as typed.
#[derive(Args)]
#[command(after_help = VERDICTS)]
pub struct VerifyArgs {
    /// URL of the server, such as http://10.0.0.7:8080
    #[arg(long, env = "CODESEAL_SERVER", value_name = "URL")]
    pub(super) server: Option<String>,

    /// Policy that the server must satisfy: a TOML file
    #[arg(long, env = "CODESEAL_POLICY", value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,

    /// Print the report as JSON
    #[arg(long)]
    pub(super) json: bool,

    /// Timeout of all answers together, in seconds [default: 120]
    #[arg(long, env = "CODESEAL_TIMEOUT_SECS", value_name = "SECONDS")]
    pub(super) timeout_secs: Option<u64>,
}
