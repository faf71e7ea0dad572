//! What `codeseal proxy` does besides serving: asks one that runs, and prints or writes configuration.

mod blocks;
mod doctor;
mod editors;
mod status;
mod units;

use std::fs::File;
use std::path::PathBuf;

use clap::{Args, Subcommand};

pub use self::blocks::BlockError;
pub use self::editors::Editor;
pub use self::status::{ToolError, ToolReport};
pub use self::units::Unit;

use self::status::Asker;
use super::listen::AccessToken;
use super::verdicts;
use crate::client::SettingsError;
use crate::client::config::invalid;

/// The flags and subcommands that are not about serving.
#[derive(Args, Default)]
pub(super) struct ToolArgs {
    #[command(subcommand)]
    command: Option<ToolCommand>,

    /// Print the configuration of an editor for a proxy with these settings, and do not serve
    #[arg(long, value_name = "NAME", value_enum, help_heading = "Setup")]
    editor: Option<Editor>,

    /// With --editor: put it into this file, as a block between two marked lines
    #[arg(long, value_name = "FILE", requires = "editor", conflicts_with = "undo", help_heading = "Setup")]
    write: Option<PathBuf>,

    /// Take the block that --write made out of this file again, and do not serve
    #[arg(long, value_name = "FILE", conflicts_with = "editor", help_heading = "Setup")]
    undo: Option<PathBuf>,

    /// Print a unit for the service manager, and do not serve
    #[arg(long, value_name = "MANAGER", value_enum, conflicts_with_all = ["editor", "undo"], help_heading = "Setup")]
    unit: Option<Unit>,
}

/// The subcommands of `codeseal proxy`.
#[derive(Subcommand)]
enum ToolCommand {
    /// Ask a proxy that runs for its state; exits as `codeseal verify` does
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        at: At,
    },
    /// Ask a proxy that runs through every API, and say which setting of an editor is wrong
    Doctor {
        #[command(flatten)]
        at: At,
    },
    /// Check that a log of verdicts is what was written
    Log {
        /// Verify the saved attestation tokens again as well, offline, as of the time at which they were saved
        #[arg(long)]
        verify: bool,

        /// The file that --verdict-log names
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Which proxy is asked.
#[derive(Args)]
struct At {
    /// Where it is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8012")]
    url: String,

    /// Its token's file
    #[arg(long, env = "CODESEAL_PROXY_TOKEN", value_name = "FILE")]
    token: Option<PathBuf>,
}

/// One of them, validated.
#[derive(Debug)]
pub enum Tool {
    /// `codeseal proxy status`
    Status {
        /// Where the proxy is.
        url: String,
        /// Its token.
        token: Option<AccessToken>,
        /// Whether the report is for a program.
        json: bool,
    },
    /// `codeseal proxy doctor`
    Doctor {
        /// Where the proxy is.
        url: String,
        /// Its token.
        token: Option<AccessToken>,
    },
    /// `codeseal proxy log`
    Log {
        /// The log.
        file: PathBuf,
        /// Whether its tokens are verified as well.
        verify: bool,
    },
    /// `--editor`
    Editor {
        /// Which.
        editor: Editor,
        /// The proxy that it is to use.
        url: String,
        /// That proxy's token.
        token: Option<AccessToken>,
        /// The file that it is put into.
        write: Option<PathBuf>,
    },
    /// `--undo`
    Undo {
        /// The file.
        file: PathBuf,
    },
    /// `--unit`
    Unit {
        /// For which service manager.
        unit: Unit,
    },
}

impl ToolArgs {
    /// Which tool was asked for, if any. `url` and `token` are those of a proxy with the other flags.
    pub(super) fn resolve(self, url: String, token: Option<PathBuf>) -> Result<Option<Tool>, SettingsError> {
        let read = |path: Option<PathBuf>| {
            path.map(|path| AccessToken::of_file(&path).map_err(|error| invalid("--token", error)))
                .transpose()
        };
        Ok(match (self.command, self.editor, self.undo, self.unit) {
            (Some(ToolCommand::Status { json, at }), ..) => {
                Some(Tool::Status { url: at.url, token: read(at.token)?, json })
            }
            (Some(ToolCommand::Doctor { at }), ..) => {
                Some(Tool::Doctor { url: at.url, token: read(at.token)? })
            }
            (Some(ToolCommand::Log { file, verify }), ..) => Some(Tool::Log { file, verify }),
            (None, Some(editor), ..) => {
                Some(Tool::Editor { editor, url, token: read(token)?, write: self.write })
            }
            (None, None, Some(file), _) => Some(Tool::Undo { file }),
            (None, None, None, Some(unit)) => Some(Tool::Unit { unit }),
            (None, None, None, None) => None,
        })
    }
}

impl Tool {
    /// Does it.
    ///
    /// # Errors
    /// [`ToolError`].
    pub async fn run(self) -> Result<ToolReport, ToolError> {
        let done = |text: String| Ok(ToolReport { text: text.trim_end().to_owned(), exit_code: 0 });
        match self {
            Self::Status { url, token, json } => {
                status::status(&Asker::new(&url, token.as_ref())?, json).await
            }
            Self::Doctor { url, token } => doctor::doctor(&Asker::new(&url, token.as_ref())?).await,
            Self::Log { file, verify } => {
                let file = File::open(file).map_err(|error| verdicts::LogError::Io(error.kind()))?;
                let checked = verdicts::check(file, verify)?;
                let mut text = format!(
                    "{} verdicts, whole and in order; the last one is {}",
                    checked.lines, checked.last
                );
                if verify {
                    let keys = checked.keys.into_iter().collect::<Vec<_>>().join(", ");
                    let signed =
                        if keys.is_empty() { String::new() } else { format!(", signed with {keys}") };
                    text += &format!("\n{} attestation tokens pass again{signed}", checked.tokens);
                }
                done(text)
            }
            Self::Editor { editor, url, token, write } => {
                let snippet = editors::snippet(editor, &url, token.as_ref().map(AccessToken::expose));
                match write {
                    None => done(format!("{} {}\n{}", snippet.comment, snippet.place, snippet.text)),
                    Some(path) => {
                        blocks::write(&path, &snippet)?;
                        let path = path.display();
                        done(format!("written to {path}; take it out with: codeseal proxy --undo {path}"))
                    }
                }
            }
            Self::Undo { file } => {
                blocks::undo(&file)?;
                done(format!("taken out of {}", file.display()))
            }
            Self::Unit { unit } => {
                let program = std::env::current_exe().map_err(|_| ToolError::Program)?;
                done(units::unit(unit, &program))
            }
        }
    }
}
