//! `codeseal policy`: flags → what to lint, test or write, with the files read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::attestation::Profile;
use crate::client::SettingsError;
use crate::client::config::{invalid, read_file as read};
use crate::policy::conditions::{
    ImageDigest, ImageReference, Images, ServiceAccount, SigningKey, Workload, codelab, hardened,
};
use crate::policy::lint::Launcher;
use crate::policy::{
    AttributeMapping, Condition, ConditionError, ConditionFile, Format, Image, PolicyCommand, claims_of,
};

const LINT_EXIT_CODES: &str = "\
Exit codes:
  0   nothing worse than notes
  1   errors or warnings
  2   wrong usage, or a file that is no image";

const TEST_EXIT_CODES: &str = "\
Exit codes:
  0   the condition is met (and, with --strict, by none of the what-ifs)
  1   it is not
  2   undecided, wrong usage, or a file that is no condition or no claims

It is decided as Google's CEL engine does, or undecided; docs/policy.md lists the reasons.";

const EXPLAIN_EXIT_CODES: &str = "\
Exit codes:
  0   the condition is valid (and met, with --claims)
  1   the claims do not meet it
  2   undecided, wrong usage, or a file that is no condition or no claims";

/// The subcommands of `codeseal policy`, as typed.
#[derive(Subcommand)]
pub enum PolicyArgs {
    /// Explain an image's launch policy, and flag what lets the operator in
    #[command(after_help = LINT_EXIT_CODES)]
    Lint {
        /// A Dockerfile, or the JSON of an image: of `docker inspect`, or its OCI configuration
        #[arg(value_name = "FILE")]
        image: PathBuf,

        /// With the JSON of an image: its Dockerfile, to tell what the base image sets
        #[arg(long, value_name = "FILE")]
        dockerfile: Option<PathBuf>,

        /// A build argument of the Dockerfile; may be repeated
        #[arg(long, value_name = "NAME=VALUE")]
        build_arg: Vec<String>,

        /// The VM image's launcher: the codelab's GPU preview, or today's
        #[arg(long, value_enum, default_value = "current")]
        launcher: LauncherName,

        /// How to print
        #[command(flatten)]
        output: OutputArgs,
    },

    /// Evaluate an attribute condition as Google's token service does, clause by clause
    #[command(after_help = TEST_EXIT_CODES)]
    Test {
        /// The condition (CEL)
        #[arg(long, value_name = "FILE")]
        condition: PathBuf,

        /// The claims (JSON), or an attestation token, whose signature is not verified
        #[arg(long, value_name = "FILE")]
        claims: PathBuf,

        /// The provider's attribute mapping, for `google` and `attribute`; may be repeated, or separated by commas
        #[arg(long, value_name = "KEY=EXPRESSION")]
        attribute_mapping: Vec<String>,

        /// Fail also if a debug image, another digest and the like would get the key
        #[arg(long)]
        strict: bool,

        /// How to print
        #[command(flatten)]
        output: OutputArgs,
    },

    /// Say in words what an attribute condition demands, and what claims make of it
    #[command(after_help = EXPLAIN_EXIT_CODES)]
    Explain {
        /// The condition (CEL)
        #[arg(long, value_name = "FILE")]
        condition: PathBuf,

        /// The claims (JSON), or an attestation token, whose signature is not verified
        #[arg(long, value_name = "FILE")]
        claims: Option<PathBuf>,

        /// The provider's attribute mapping, for `google` and `attribute`; may be repeated, or separated by commas
        #[arg(long, value_name = "KEY=EXPRESSION")]
        attribute_mapping: Vec<String>,

        /// How to print
        #[command(flatten)]
        output: OutputArgs,
    },

    /// Write an attribute condition
    Condition {
        /// What the machine must be: shielded-preview, sev, tdx or tdx-h100
        #[arg(long, value_name = "NAME")]
        profile: Profile,

        /// The image: sha256:…; may be repeated while an upgrade is under way
        #[arg(long, value_name = "DIGEST", required_unless_present = "signing_key", value_parser = parse::<ImageDigest>)]
        image_digest: Vec<ImageDigest>,

        /// In place of digests: any image that this key has signed, as ALGORITHM:SHA256-OF-THE-KEY
        #[arg(long, value_name = "KEY", conflicts_with = "image_digest", value_parser = parse::<SigningKey>)]
        signing_key: Vec<SigningKey>,

        /// The name that the image is pulled by, with its tag
        #[arg(long, value_name = "IMAGE", value_parser = parse::<ImageReference>)]
        image_reference: Option<ImageReference>,

        /// The service account that the VM runs as
        #[arg(long, value_name = "EMAIL", value_parser = parse::<ServiceAccount>)]
        service_account: ServiceAccount,

        /// The codelab's condition, which lets debug images and overrides pass
        #[arg(long)]
        codelab: bool,
    },
}

/// How results are printed, as typed.
#[derive(Args)]
pub struct OutputArgs {
    /// Print JSON; the same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// How to print: for people, as JSON, or as annotations of a GitHub workflow
    #[arg(long, value_enum, default_value = "text")]
    format: FormatName,
}

/// [`Format`], as typed.
#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    /// For people
    Text,
    /// One JSON value
    Json,
    /// `::error file=…,line=…,col=…::…`
    Github,
}

impl OutputArgs {
    fn resolve(&self) -> Format {
        match self.format {
            _ if self.json => Format::Json,
            FormatName::Text => Format::Text,
            FormatName::Json => Format::Json,
            FormatName::Github => Format::Github,
        }
    }
}

/// [`Launcher`], as typed.
#[derive(Clone, Copy, ValueEnum)]
pub enum LauncherName {
    /// That of the codelab's GPU preview image
    Preview,
    /// That of today's images
    Current,
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

impl PolicyArgs {
    /// Reads the files that were named.
    ///
    /// # Errors
    /// [`SettingsError`]: which flag is wrong.
    pub fn resolve(self) -> Result<PolicyCommand, SettingsError> {
        match self {
            Self::Lint { image, dockerfile, build_arg, launcher, output } => {
                let arguments = build_arg.iter().map(|text| {
                    let pair =
                        text.split_once('=').ok_or_else(|| invalid("--build-arg", "must be NAME=VALUE"));
                    pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
                });
                let arguments = arguments.collect::<Result<BTreeMap<_, _>, _>>()?;
                let open = |flag, path: &Path| {
                    let image = Image::read(&read(flag, path)?, &arguments);
                    image.map(Box::new).map_err(|error| invalid(flag, error))
                };
                Ok(PolicyCommand::Lint {
                    image: open("FILE", &image)?,
                    file: image.display().to_string(),
                    dockerfile: dockerfile.map(|path| open("--dockerfile", &path)).transpose()?,
                    launcher: match launcher {
                        LauncherName::Preview => Launcher::Preview,
                        LauncherName::Current => Launcher::Current,
                    },
                    format: output.resolve(),
                })
            }
            Self::Test { condition, claims, attribute_mapping, strict, output } => {
                let format = output.resolve();
                match read_condition(&condition, &attribute_mapping, format)? {
                    Ok(condition) => {
                        Ok(PolicyCommand::Test { condition, claims: read_claims(&claims)?, strict, format })
                    }
                    Err(refused) => Ok(refused),
                }
            }
            Self::Explain { condition, claims, attribute_mapping, output } => {
                let format = output.resolve();
                match read_condition(&condition, &attribute_mapping, format)? {
                    Ok(condition) => {
                        let claims = claims.as_deref().map(read_claims).transpose()?;
                        Ok(PolicyCommand::Explain { condition, claims, format })
                    }
                    Err(refused) => Ok(refused),
                }
            }
            Self::Condition {
                profile,
                image_digest,
                signing_key,
                image_reference,
                service_account,
                codelab: is_codelab,
            } => {
                let images = if signing_key.is_empty() {
                    Images::Digests(image_digest)
                } else {
                    Images::SignedBy(signing_key)
                };
                let workload = Workload { images, image_reference, service_account };
                let write = if is_codelab { codelab } else { hardened };
                let condition = write(profile, &workload).map_err(|error| invalid("the condition", error))?;
                // What `policy test` and Google would refuse is not written.
                Condition::parse(&condition).map_err(|error| invalid("the condition", error))?;
                Ok(PolicyCommand::Condition(condition))
            }
        }
    }
}

fn read_claims(path: &Path) -> Result<serde_json::Value, SettingsError> {
    claims_of(&read("--claims", path)?).map_err(|error| invalid("--claims", error))
}

/// The condition; where a program reads the output, a condition that cannot be used is reported there.
fn read_condition(
    path: &Path,
    mapping: &[String],
    format: Format,
) -> Result<Result<Box<ConditionFile>, PolicyCommand>, SettingsError> {
    let mapping = (!mapping.is_empty()).then(|| AttributeMapping::parse(mapping)).transpose();
    let mapping = mapping.map_err(|error| invalid("--attribute-mapping", error))?;
    let name = path.display().to_string();
    let refused = |error: ConditionError| match format {
        Format::Text => Err(invalid("--condition", error)),
        Format::Json | Format::Github => Ok(PolicyCommand::Refused { file: name.clone(), error, format }),
    };
    let text = read("--condition", path)?;
    // The end of the last line is the file's, not the condition's.
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    let condition = match Condition::parse(text) {
        Ok(condition) => condition,
        Err(error) => return refused(error).map(Err),
    };
    let condition = match mapping {
        Some(mapping) => condition.with_mapping(mapping),
        None => condition,
    };
    Ok(Ok(Box::new(ConditionFile { name, condition })))
}
