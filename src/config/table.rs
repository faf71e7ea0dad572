//! The configuration tables of the README, made from the command lines themselves.

use clap::{Arg, CommandFactory as _};

#[cfg(feature = "client")]
use super::client::ClientArgs;
#[cfg(feature = "server")]
use super::server::ServerArgs;
#[cfg(feature = "client")]
use crate::client::FileSettings;

/// One row per flag of `codeseal-server`, as Markdown.
#[cfg(feature = "server")]
pub fn configuration_table() -> String {
    let mut table = String::from("| flag | environment | default | meaning |\n|---|---|---|---|\n");
    for arg in ServerArgs::command().get_arguments() {
        if let Some(row) = row(arg) {
            table.push_str(&row);
        }
    }
    table
}

/// One row per setting of `codeseal complete` and `codeseal verify`, as Markdown.
#[cfg(feature = "client")]
pub fn client_configuration_table() -> String {
    let mut table = String::from("| flag | environment | `config.toml` | meaning |\n|---|---|---|---|\n");
    let command = ClientArgs::command();
    let complete = command.find_subcommand("complete");
    for arg in complete.iter().flat_map(|complete| complete.get_arguments()) {
        if let Some(row) = client_row(arg) {
            table.push_str(&row);
        }
    }
    table
}

#[cfg(feature = "client")]
fn client_row(arg: &Arg) -> Option<String> {
    let flag = arg.get_long().filter(|flag| *flag != "help")?;
    let code = |text: String| if text.is_empty() { "–".to_owned() } else { format!("`{text}`") };
    let environment = arg.get_env().unwrap_or_default().to_string_lossy().into_owned();
    let key = flag.replace('-', "_");
    let key = if FileSettings::KEYS.contains(&key.as_str()) { key } else { String::new() };
    Some(format!("| `{}` | {} | {} | {} |\n", typed(arg, flag), code(environment), code(key), meaning(arg)))
}

/// The flag with the name of its value, if it takes one.
fn typed(arg: &Arg, flag: &str) -> String {
    let values = arg.get_value_names().unwrap_or_default().join(" ");
    let takes_one = arg.get_action().takes_values() && !values.is_empty();
    if takes_one { format!("--{flag} {values}") } else { format!("--{flag}") }
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(feature = "server")]
fn row(arg: &Arg) -> Option<String> {
    let (flag, environment) = (arg.get_long()?, arg.get_env()?);
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = match defaults.collect::<Vec<_>>().join(" ") {
        none if none.is_empty() && arg.is_required_set() => "required".to_owned(),
        none if none.is_empty() => "–".to_owned(),
        default => format!("`{default}`"),
    };
    let (typed, meaning) = (typed(arg, flag), meaning(arg));
    Some(format!("| `{typed}` | `{}` | {default} | {meaning} |\n", environment.to_string_lossy()))
}
