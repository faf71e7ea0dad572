//! Shell completions and man pages, made from the command lines themselves.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command, ValueEnum};
use clap_complete::Shell;

/// A program with a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// The client.
    Codeseal,
    /// The server.
    #[cfg(feature = "server")]
    CodesealServer,
}

/// The flags of `codeseal completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Shell that reads the script
    pub shell: Shell,

    /// Program whose command line is completed
    #[arg(long, value_enum, default_value_t = Program::Codeseal)]
    pub program: Program,
}

/// The flags of `codeseal man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Directory for the pages, one for each command; created if missing
    pub dir: PathBuf,
}

impl CompletionsArgs {
    /// Writes the script that completes `command`, the program's command line.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn write(&self, mut command: Command, out: &mut impl Write) -> io::Result<()> {
        let name = command.get_name().to_owned();
        // clap_complete panics if it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        out.write_all(&script)
    }
}

impl ManArgs {
    /// Writes a page in section 1 for each of `programs` and each of their commands, and returns the number of pages.
    ///
    /// # Errors
    /// The directory cannot be made, or a file in it cannot be written.
    pub fn write(&self, programs: impl IntoIterator<Item = Command>) -> io::Result<usize> {
        std::fs::create_dir_all(&self.dir)?;
        let mut pages = 0;
        for program in programs {
            let mut command = program.disable_help_subcommand(true);
            // Gives each subcommand its full name.
            command.build();
            let name = command.get_name().to_owned();
            pages += write_page(&self.dir, &name, command)?;
        }
        Ok(pages)
    }
}

/// Writes the page of `command` and those of its subcommands.
fn write_page(dir: &Path, name: &str, command: Command) -> io::Result<usize> {
    let mut pages = 1;
    let subcommands: Vec<Command> =
        command.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.display_name(name.to_owned()))
        .title(name.to_uppercase())
        .render(&mut page)?;
    std::fs::write(dir.join(format!("{name}.1")), page)?;
    for subcommand in subcommands {
        let name = format!("{name}-{}", subcommand.get_name());
        pages += write_page(dir, &name, subcommand)?;
    }
    Ok(pages)
}
