//! The README and the docs agree with the program.

use std::fs;
use std::path::{Path, PathBuf};

use codeseal::config::configuration_table;
use codeseal::protocol::ErrorCode;

const BEGIN: &str = "<!-- configuration:begin -->";
const END: &str = "<!-- configuration:end -->";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// With `UPDATE_DOCS=1` the table is written instead of compared.
#[test]
fn the_configuration_table_is_what_the_command_line_says() {
    let readme = fs::read_to_string(path("README.md")).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let current = format!("{before}{BEGIN}\n{}{END}{after}", configuration_table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path("README.md"), current).unwrap();
        return;
    }
    assert!(readme == current, "stale: run UPDATE_DOCS=1 cargo test --test it docs::");
}

#[test]
fn the_protocol_lists_every_error() {
    let protocol = fs::read_to_string(path("docs/protocol.md")).unwrap();
    for code in ErrorCode::ALL {
        let name = format!("`{}`", code.as_str());
        let row = protocol.lines().find(|line| line.starts_with('|') && line.contains(&name));
        let row = row.unwrap_or_else(|| panic!("{name} is not in a table"));
        assert!(row.contains(&code.status().to_string()), "{name} has another status: {row}");
    }
}
