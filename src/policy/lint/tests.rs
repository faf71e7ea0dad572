use std::collections::BTreeMap;

use super::*;

/// An image that nothing can be said against.
const GOOD: &str = "FROM scratch\nENTRYPOINT [\"/server\"]\nUSER 65532\nEXPOSE 8080/tcp\n";

fn image(text: &str) -> Image {
    Image::read(text, &BTreeMap::new()).unwrap()
}

fn found(lines: &str, launcher: Launcher) -> Vec<(Level, String)> {
    let report = lint(&image(&format!("{GOOD}{lines}")), None, launcher);
    report.findings.into_iter().map(|finding| (finding.level, finding.code)).collect()
}

#[track_caller]
fn assert_found(lines: &str, expected: &[(Level, &str)]) {
    let expected: Vec<_> = expected.iter().map(|&(level, code)| (level, code.to_owned())).collect();
    assert_eq!(found(lines, Launcher::Current), expected, "{lines}");
}

fn label(name: &str, value: &str) -> String {
    format!("LABEL \"{PREFIX}{name}\"=\"{value}\"")
}

#[test]
fn a_good_image_is_clean_and_its_labels_are_explained() {
    let report = lint(&image(GOOD), None, Launcher::Current);
    assert!(report.is_clean() && report.findings.is_empty());
    assert_eq!(report.labels.len(), 9);
    let text = report.to_string();
    assert!(text.contains("allow_cmd_override, not set: a launch with tee-cmd is refused"), "{text}");
    assert!(
        text.ends_with("ports that the launcher opens: 8080/tcp\nerrors: 0, warnings: 0, notes: 0\n"),
        "{text}"
    );
}

#[test]
fn dangerous_labels_are_errors() {
    for (name, value, code) in [
        ("allow_cmd_override", "true", "cmd-override"),
        ("allow_env_override", "CODESEAL_WIP_AUDIENCE", "env-override-address"),
        ("allow_env_override", "CODESEAL_KMS_KEY", "env-override-key"),
        ("allow_env_override", "CODESEAL_MODEL_CACHE", "env-override-path"),
        ("allow_env_override", "RUST_LOG", "env-override-log-level"),
        ("allow_env_override", "LD_PRELOAD", "env-override-code"),
        ("allow_env_override", "NODE_OPTIONS", "env-override-code"),
        ("allow_env_override", "CODESEAL_MAX_RUNNING", "env-override-product"),
        ("allow_env_override", "CODESEAL_PROFILE", "env-override-policy"),
        ("allow_mount_destinations", "/etc/ssl", "mount-hides"),
        ("allow_mount_destinations", "scratch", "mount-relative"),
        ("log_redirect", "always", "log-redirect-always"),
        ("allow_capabilities", "1", "capabilities"),
        ("allow_everything", "true", "unknown-label"),
        ("allow_cmd_override", "no", "bad-value"),
        ("hardened_monitoring", "some", "bad-value"),
    ] {
        assert_found(&label(name, value), &[(Level::Error, code)]);
    }
    assert_found("LABEL TEE.launch_policy.log_redirect=never", &[(Level::Error, "unknown-label")]);
    assert_found("LABEL com.example.note=always", &[]);
}

#[test]
fn what_weakens_an_image_is_a_warning_and_what_may_be_meant_a_note() {
    for (name, value, expected) in [
        ("hardened_monitoring", "memoryOnly", (Level::Warning, "monitoring")),
        ("allow_cgroups", "true", (Level::Warning, "cgroups")),
        ("allow_env_override", "MAX_RUNNING", (Level::Note, "env-override")),
        ("allow_mount_destinations", "/scratch", (Level::Note, "mount")),
        ("monitoring_memory_allow", "never", (Level::Warning, "monitoring-deprecated")),
    ] {
        assert_found(&label(name, value), &[expected]);
    }
    for (name, value) in [
        ("allow_cmd_override", "false"),
        ("allow_env_override", ""),
        ("log_redirect", "debugonly"),
        ("log_redirect", "never"),
        ("debug_monitoring", "none"),
    ] {
        assert_found(&label(name, value), &[]);
    }
    let spaced = [(Level::Error, "env-override-log-level"), (Level::Warning, "env-override-name")];
    assert_found(&label("allow_env_override", " RUST_LOG"), &spaced);
}

#[test]
fn the_two_launchers_differ() {
    let old = label("monitoring_memory_allow", "debugonly");
    let new = label("hardened_monitoring", "none");
    assert_found(&format!("{old}\n{new}"), &[(Level::Error, "monitoring-mixed")]);
    let preview = |lines: &str| found(&format!("USER 0\n{lines}"), Launcher::Preview);
    assert_eq!(preview(&old), []);
    assert_eq!(preview(&new), [(Level::Note, "label-not-known".to_owned())]);
    // It does not look at the value either.
    assert_eq!(
        preview(&label("allow_capabilities", "nonsense")),
        [(Level::Note, "label-not-known".to_owned())]
    );
    assert_eq!(found("", Launcher::Preview), [(Level::Error, "user-cannot-read-token".to_owned())]);
    assert_found("USER 0", &[(Level::Warning, "user-root")]);
    let report = lint(&image(&format!("{GOOD}{new}")), None, Launcher::Preview);
    let explained = report.labels.iter().find(|label| label.label.ends_with("hardened_monitoring")).unwrap();
    assert_eq!(explained.preview, "not known to it: ignored");
    assert_eq!(explained.current, "production images are not monitored from outside");
}

#[test]
fn every_open_port_is_accounted_for() {
    assert_found("EXPOSE 9090/tcp", &[(Level::Warning, "several-ports")]);
    assert_found("EXPOSE 8080", &[]);
    // buildah looks at the number and adds nothing.
    assert_found("EXPOSE 8080/udp", &[(Level::Warning, "builders-differ"), (Level::Warning, "udp-port")]);
    assert_found("EXPOSE 80/sctp", &[(Level::Error, "port-refused"), (Level::Warning, "several-ports")]);
    // BuildKit exposes each port, buildah the range as it is written, which the launcher refuses.
    let range = found("EXPOSE 8000-8002/tcp", Launcher::Current);
    assert_eq!(range[0], (Level::Error, "port-refused".to_owned()));
    assert!(range.contains(&(Level::Warning, "builders-differ".to_owned())));
    let none = lint(&image("FROM scratch\nUSER 1\nENTRYPOINT [\"/s\"]"), None, Launcher::Current);
    assert_eq!(none.findings[0].code, "no-port");
}

#[test]
fn an_image_with_a_port_that_the_launcher_does_not_read_is_refused() {
    for port in ["8080", "8080/sctp", "8080/TCP", "8000-9000/tcp", "65536/tcp"] {
        let built = image(&format!(
            r#"{{"config": {{"User": "1", "Entrypoint": ["/s"], "ExposedPorts": {{"{port}": {{}}}}}}}}"#
        ));
        let report = lint(&built, None, Launcher::Current);
        assert_eq!((report.findings.len(), report.ports.len()), (1, 0), "{port}");
        assert_eq!(
            (report.findings[0].level, report.findings[0].code.as_str()),
            (Level::Error, "port-refused")
        );
    }
}

#[test]
fn a_dirty_image_of_a_clean_dockerfile_is_found() {
    for (lines, code) in [
        ("ONBUILD LABEL tee.launch_policy.log_redirect=always\nFROM base", "log-redirect-always"),
        ("ARG A=1 B=always\nLABEL tee.launch_policy.log_redirect=$B", "log-redirect-always"),
        ("ARG A=always\nARG A\nLABEL tee.launch_policy.log_redirect=$A", "log-redirect-always"),
        ("ARG B=always\nLABEL tee.launch_policy.log_redirect=${A:-$B}", "log-redirect-always"),
        ("ARG A=always\nFROM base\nLABEL tee.launch_policy.log_redirect=${A:-never}", "log-redirect-always"),
        ("ENV M=always\nENV M=never N=$M\nLABEL tee.launch_policy.log_redirect=$N", "log-redirect-always"),
        ("FROM scratch AS base\nLABEL tee.launch_policy.allow_cmd_override=true\nFROM base", "cmd-override"),
        ("USER \"0\"", "user-root"),
        ("USER 00", "user-root"),
        ("USER app", "user-by-name"),
        ("LABEL tee.launch_pol\\\nicy.log_redirect=always", "log-redirect-always"),
        ("ARG N=redirect\nLABEL tee.launch_policy.log_$N=always", "log-redirect-always"),
        ("EXPOSE 8000-8001/tcp", "port-refused"),
    ] {
        let text =
            format!("FROM scratch AS base\nENTRYPOINT [\"/s\"]\nUSER 65532\nEXPOSE 8080/tcp\n{lines}\n");
        let report = lint(&image(&text), None, Launcher::Current);
        assert!(report.findings.iter().any(|finding| finding.code == code), "{lines}: {report}");
    }
}

#[test]
fn what_only_buildah_refuses_is_a_note() {
    let report = lint(&image(&format!("{GOOD}COPY <<EOF /x\ntext\nEOF\n")), None, Launcher::Current);
    let codes: Vec<_> = report.findings.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(codes, ["builder-refuses"]);
    assert!(report.is_clean());
    // The lines of a here-document are instructions to a builder that knows none.
    let hidden = "RUN <<EOF\nLABEL tee.launch_policy.log_redirect=always\nONBUILD LABEL EOF=1\nEOF\n";
    assert!(found(hidden, Launcher::Current).iter().all(|(_, code)| code == "builder-refuses"));
}

#[test]
fn what_the_dockerfile_does_not_set_is_inherited() {
    let built = image(
        r#"{"config": {"User": "1", "Entrypoint": ["/server"], "ExposedPorts": {"8080/tcp": {}, "8888/tcp": {}},
            "Env": ["PATH=/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca.crt", "TZ=UTC"]}}"#,
    );
    let report = lint(&built, Some(&image(GOOD)), Launcher::Current);
    let codes: Vec<_> =
        report.findings.iter().map(|finding| (finding.level, finding.code.as_str())).collect();
    let expected = [
        (Level::Error, "inherited-port"),
        (Level::Warning, "several-ports"),
        (Level::Warning, "inherited-env"),
        (Level::Note, "inherited-env"),
    ];
    assert_eq!(codes, expected);
    assert!(report.findings[0].message.contains("8888"));
}

#[test]
fn the_environment_holds_no_secret_and_loads_no_code() {
    for (env, code) in [
        ("LD_PRELOAD=/x.so", "env-code"),
        ("HF_TOKEN=hf_0123456789", "env-secret"),
        ("DB_PASSWORD='correct horse'", "env-secret"),
    ] {
        assert_found(&format!("ENV {env}"), &[(Level::Error, code)]);
    }
    assert_found("ENV LD_LIBRARY_PATH=/opt", &[(Level::Warning, "env-code")]);
    assert_found("ENV https_proxy=http://p", &[(Level::Warning, "env-proxy")]);
    for harmless in [
        "LD_LIBRARY_PATH=/usr/local/nvidia/lib64",
        "CODESEAL_KMS_KEY=projects/p/locations/global/keyRings/r/cryptoKeys/k",
        "CODESEAL_ATTESTATION_TOKEN=/run/x",
        "CODESEAL_ON_TOKEN_EXPIRY=wait",
    ] {
        assert_found(&format!("ENV {harmless}"), &[]);
    }
}

#[test]
fn the_launcher_needs_an_entry_point() {
    let without = "FROM scratch\nUSER 1\nEXPOSE 80/tcp";
    let report = lint(&image(without), None, Launcher::Current);
    assert_eq!((report.findings[0].level, report.findings[0].code.as_str()), (Level::Error, "no-entrypoint"));
    // It runs the arguments instead, and refuses those of the operator.
    let report = lint(&image(&format!("{without}\nCMD [\"/s\"]")), None, Launcher::Current);
    assert_eq!((report.findings[0].level, report.findings[0].code.as_str()), (Level::Note, "no-entrypoint"));
    assert!(report.is_clean() && report.findings[0].message.contains("runs CMD"));
    let open = format!("{without}\nCMD [\"/s\"]\n{}", label("allow_cmd_override", "true"));
    let report = lint(&image(&open), None, Launcher::Current);
    assert_eq!(
        (report.findings[0].level, report.findings[0].code.as_str()),
        (Level::Warning, "cmd-override")
    );
    assert_found("ENTRYPOINT /server --flag", &[(Level::Warning, "shell-entrypoint")]);
    assert_found("CMD sleep 1", &[(Level::Warning, "shell-cmd")]);
    assert_found("HEALTHCHECK CMD true", &[(Level::Note, "healthcheck")]);
}

#[test]
fn a_base_image_that_is_not_pinned_or_cannot_be_seen_is_noted() {
    let codes = |from: &str| {
        let report = lint(&image(&GOOD.replace("scratch", from)), None, Launcher::Current);
        assert!(report.is_clean());
        report.findings.into_iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    assert_eq!(codes("debian:12"), ["base-not-pinned", "base-not-seen"]);
    assert_eq!(codes(&format!("debian@sha256:{}", "0".repeat(64))), ["base-not-seen"]);
}
