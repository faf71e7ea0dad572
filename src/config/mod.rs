//! The command lines of both programs, and what they read of the environment. Each command's flags and settings belong
//! to the module that it starts.
//!
//! Allowed modules: attestation, bench, client, eval, hub, loadtest, policy, proxy, sandbox, server.
//! Forbidden: axum, hyper, reqwest, std::net::Tcp*, tokio.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "client")]
mod shell;
mod table;

#[cfg(feature = "server")]
pub use self::server::{Action, ServerArgs, UsageError, user_cache};
#[cfg(feature = "client")]
pub use self::shell::{CompletionsArgs, ManArgs, Program};
#[cfg(feature = "client")]
pub use self::table::client_configuration_table;
#[cfg(feature = "server")]
pub use self::table::configuration_table;

/// The command line of a program.
#[cfg(feature = "client")]
pub fn command(program: Program) -> clap::Command {
    use clap::CommandFactory as _;
    match program {
        Program::Codeseal => client::ClientArgs::command(),
        #[cfg(feature = "server")]
        Program::CodesealServer => ServerArgs::command(),
    }
}

#[cfg(all(test, feature = "client"))]
mod tests {
    use clap::ValueEnum as _;
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in Shell::value_variants() {
            for (program, words) in [
                (Program::Codeseal, ["complete", "kms-key"]),
                #[cfg(feature = "server")]
                (Program::CodesealServer, ["bench", "kv-cache-mib"]),
            ] {
                let mut script = Vec::new();
                CompletionsArgs { shell: *shell, program }.write(command(program), &mut script).unwrap();
                let script = String::from_utf8(script).unwrap();
                assert!(words.iter().all(|word| script.contains(word)), "{shell} {program:?}");
            }
        }
    }

    #[test]
    fn every_command_gets_a_page_with_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        let man = dir.path().join("man1");
        let programs = Program::value_variants().iter().map(|program| command(*program));
        let pages = ManArgs { dir: man.clone() }.write(programs).unwrap();
        let read = |name: &str| std::fs::read_to_string(man.join(name)).unwrap();
        assert!(read("codeseal-complete.1").contains(r"kms\-key"));
        assert!(read("codeseal-policy-lint.1").contains("policy"));
        assert!(read("codeseal-verify.1").contains("Exit codes"));
        #[cfg(feature = "server")]
        assert!(read("codeseal-server.1").contains(r"kv\-cache\-mib"));
        assert_eq!(std::fs::read_dir(man).unwrap().count(), pages);
    }
}
