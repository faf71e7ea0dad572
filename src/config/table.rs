//! The configuration table of the README, made from the command line itself.
//!
//! Must not touch: files.

use clap::{Arg, CommandFactory as _};

use super::server::ServerArgs;

/// One row per flag of `codeseal-server`, as Markdown.
pub fn configuration_table() -> String {
    let mut table = String::from("| flag | environment | default | meaning |\n|---|---|---|---|\n");
    for arg in ServerArgs::command().get_arguments() {
        if let Some(row) = row(arg) {
            table.push_str(&row);
        }
    }
    table
}

fn row(arg: &Arg) -> Option<String> {
    let (flag, environment) = (arg.get_long()?, arg.get_env()?);
    let value = arg.get_value_names().unwrap_or_default().join(" ");
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = match defaults.collect::<Vec<_>>().join(" ") {
        none if none.is_empty() && arg.is_required_set() => "required".to_owned(),
        none if none.is_empty() => "–".to_owned(),
        default => format!("`{default}`"),
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    Some(format!("| `--{flag} {value}` | `{}` | {default} | {help} |\n", environment.to_string_lossy()))
}
