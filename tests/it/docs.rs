//! The README, the docs and the image agree with the program.

use std::fs;
use std::path::{Path, PathBuf};

use codeseal::client::Untrusted;
use codeseal::config::{client_configuration_table, configuration_table};
use codeseal::policy::lint::KNOWN;
use codeseal::protocol::ErrorCode;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// With `UPDATE_DOCS=1` the tables are written instead of compared.
#[test]
fn the_configuration_tables_are_what_the_command_lines_say() {
    let readme = fs::read_to_string(path("README.md")).unwrap();
    let mut current = readme.clone();
    for (name, table) in
        [("configuration", configuration_table()), ("client-configuration", client_configuration_table())]
    {
        let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
        let (before, rest) = current.split_once(&begin).unwrap();
        let (_, after) = rest.split_once(&end).unwrap();
        current = format!("{before}{begin}\n{table}{end}{after}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path("README.md"), current).unwrap();
        return;
    }
    assert!(readme == current, "stale: run UPDATE_DOCS=1 cargo test --test it docs::");
}

/// With `UPDATE_DOCS=1` the table is written instead of compared.
#[test]
fn the_policy_lists_every_variable_that_gives_access() {
    let policy = fs::read_to_string(path("docs/policy.md")).unwrap();
    let (before, rest) = policy.split_once("<!-- known-variables:begin -->").unwrap();
    let (_, after) = rest.split_once("<!-- known-variables:end -->").unwrap();
    let mut table = "| read by | a person who sets one decides | variables |\n|---|---|---|\n".to_owned();
    for known in KNOWN {
        let names: Vec<_> = known.names().map(|name| format!("`{name}`")).collect();
        table += &format!("| {} | {} | {} |\n", known.reader, known.decides(), names.join(", "));
    }
    let (begin, end) = ("<!-- known-variables:begin -->", "<!-- known-variables:end -->");
    let current = format!("{before}{begin}\n{table}{end}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path("docs/policy.md"), current).unwrap();
        return;
    }
    assert!(policy == current, "stale: run UPDATE_DOCS=1 cargo test --test it docs::");
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

#[test]
fn the_protocol_lists_every_reason_not_to_trust_a_server() {
    let protocol = fs::read_to_string(path("docs/protocol.md")).unwrap();
    for reason in Untrusted::ALL {
        let name = serde_json::to_value(reason).unwrap();
        let row = format!("| {} | `{}` |", reason.exit_code(), name.as_str().unwrap());
        assert!(protocol.contains(&row), "{row} is missing");
    }
}

#[test]
fn the_image_opens_one_port_and_explains_every_policy() {
    let dockerfile = fs::read_to_string(path("Dockerfile")).unwrap();
    let lines: Vec<&str> = dockerfile.lines().collect();
    let beginning =
        |word: &str| lines.iter().filter(|line| line.starts_with(word)).copied().collect::<Vec<_>>();
    assert_eq!(beginning("EXPOSE"), ["EXPOSE 8080/tcp"]);
    assert_eq!(beginning("ENTRYPOINT"), [r#"ENTRYPOINT ["/usr/local/bin/codeseal-server"]"#]);
    // The same in every stage that reads it.
    assert_eq!(beginning("ARG FEATURES"), ["ARG FEATURES=server,cuda"; 2]);
    assert_eq!(beginning("ARG CUDA_LIBRARIES"), ["ARG CUDA_LIBRARIES=candle"]);
    assert_eq!(beginning("ARG MOUNT_DESTINATIONS"), [r#"ARG MOUNT_DESTINATIONS="""#]);
    assert!(beginning("HEALTHCHECK").is_empty() && beginning("CMD").is_empty());
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("LABEL")) {
        assert!(lines[index - 1].starts_with("# "), "{line} is not explained");
    }
    for policy in [
        r#"allow_cmd_override"="false""#,
        r#"allow_env_override"="""#,
        r#"allow_mount_destinations"="${MOUNT_DESTINATIONS}""#,
        r#"log_redirect"="debugonly""#,
        r#"hardened_monitoring"="none""#,
        r#"debug_monitoring"="none""#,
        r#"allow_capabilities"="false""#,
        r#"allow_cgroups"="false""#,
    ] {
        let label = format!(r#"LABEL "tee.launch_policy.{policy}"#);
        assert!(lines.contains(&label.as_str()), "{label} is missing");
    }
}

/// A misspelt variable would silently be a default.
#[test]
fn the_image_sets_only_variables_that_the_server_reads() {
    let dockerfile = fs::read_to_string(path("Dockerfile")).unwrap();
    let table = configuration_table();
    let words = dockerfile.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    let variables: Vec<&str> = words.filter(|word| word.starts_with("CODESEAL_")).collect();
    assert!(variables.len() >= 6);
    for variable in variables {
        assert!(table.contains(&format!("`{variable}`")), "{variable}");
    }
}
