use super::*;
use crate::policy::image::{Command, Set};

fn read(text: &str, arguments: &[(&str, &str)]) -> Result<Image, ImageError> {
    let arguments = arguments.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    super::read(text, &arguments)
}

fn labels(text: &str) -> Vec<(String, String)> {
    let image = read(&format!("FROM scratch\n{text}"), &[]).unwrap();
    image.labels.into_iter().map(|(name, set)| (name, set.value)).collect()
}

fn pairs_of(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}
#[test]
fn labels_are_read_in_every_spelling() {
    for (text, expected) in [
        (r#"LABEL "a.b"="c""#, &[("a.b", "c")][..]),
        (r#"LABEL a.b=c d.e='f g'"#, &[("a.b", "c"), ("d.e", "f g")]),
        ("label a.b c d", &[("a.b", "c d")]),
        ("LABEL a=1 \\\n  # a comment between\n  b=2", &[("a", "1"), ("b", "2")]),
        (r#"LABEL a="say \"x\"" b=c\ d"#, &[("a", "say \"x\""), ("b", "c d")]),
        ("LABEL a=1\nLABEL a=2", &[("a", "2")]),
        (r#"LABEL a="x=y""#, &[("a", "x=y")]),
        ("LABEL a=", &[("a", "")]),
    ] {
        assert_eq!(labels(text), pairs_of(expected), "{text}");
    }
}

#[test]
fn arguments_are_put_in() {
    let text = "ARG TAG=1\nFROM scratch AS empty\nFROM empty\nARG TAG\nARG USER_ID=65532\nENV A=${TAG} B=$USER_ID C=\\$TAG \
        D='$TAG' E=${NONE:-x} F=${TAG:+y}\nENV G=${A}${B}\nUSER ${USER_ID}\nEXPOSE 80$TAG/tcp";
    let image = read(text, &[]).unwrap();
    let value = |name: &str| image.env[name].value.clone();
    let found = ["A", "B", "C", "D", "E", "F", "G"].map(value);
    assert_eq!(found, ["1", "65532", "$TAG", "$TAG", "x", "y", "165532"]);
    assert_eq!(image.user.unwrap().value, "65532");
    assert_eq!(image.ports[0].value, "801/tcp");
    let image = read("ARG TAG=1\nFROM base:${TAG}\n", &[("TAG", "2")]).unwrap();
    assert_eq!(image.base.unwrap().value, "base:2");
    assert!(read(text, &[("USER_ID", "0"), ("TAG", "2")]).unwrap().runs_as_root());
}

#[test]
fn the_last_stage_is_the_image_and_inherits_from_an_earlier_one() {
    let text = "FROM a AS one\nEXPOSE 1\nENV X=1\nFROM b\nENV Y=1\nFROM one AS two\nEXPOSE 2/udp";
    let image = read(text, &[]).unwrap();
    assert_eq!(image.ports.iter().map(|port| port.value.as_str()).collect::<Vec<_>>(), ["1/tcp", "2/udp"]);
    assert_eq!(image.env.keys().collect::<Vec<_>>(), ["X"]);
    assert_eq!(image.base.unwrap().value, "a");
    assert_eq!(read("FROM scratch", &[]).unwrap().base, None);
    assert!(read("FROM a AS one\nFROM ONE", &[]).is_err(), "a name is found in small letters only");
}

#[test]
fn commands_are_words_or_a_line() {
    let image = read("FROM a\nCMD x\nENTRYPOINT [\"/s\", \"-v\"]", &[]).unwrap();
    assert_eq!(image.entrypoint.unwrap().value, Command::Words(vec!["/s".into(), "-v".into()]));
    assert!(image.cmd.is_some(), "an entry point forgets the arguments of the base, not the stage's own");
    let image = read("FROM scratch AS a\nCMD x\nFROM a\nENTRYPOINT [\"/s\"]", &[]).unwrap();
    assert_eq!(image.cmd, None);
    let image = read("FROM a\nENTRYPOINT exec /s\nCMD []\nHEALTHCHECK CMD true", &[]).unwrap();
    assert_eq!(
        image.entrypoint.unwrap().value,
        Command::Shell(vec!["/bin/sh".into(), "-c".into(), "exec /s".into()])
    );
    assert!(image.cmd.is_none() && image.healthcheck);
}

#[test]
fn here_documents_and_comments_are_no_instructions() {
    let text = "# escape=`\n\nFROM a\nRUN <<EOF\nEXPOSE 9\nEOF\n# EXPOSE 8\nEXPOSE `\n 7\n";
    let image = read(text, &[]).unwrap();
    assert_eq!(image.ports, [Set::at(8, "7/tcp".to_owned())]);
}

#[test]
fn what_is_no_dockerfile_is_refused_with_its_line() {
    let problem = |text| match read(text, &[]) {
        Err(ImageError::Dockerfile { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(""), 1);
    assert_eq!(problem("FROM a\n\nLABLE x=y"), 3);
    assert_eq!(problem("EXPOSE 8080"), 1);
    assert_eq!(problem("FROM a\nLABEL x"), 2);
    assert_eq!(problem("FROM a b"), 1);
}

#[test]
fn a_variable_of_an_unknown_base_stays_unknown() {
    let is_unknown = |text: &str| matches!(read(text, &[]), Err(ImageError::Unknown { .. }));
    for line in [
        "LABEL tee.launch_policy.log_redirect=${MODE:-never}",
        "LABEL $NAME=x",
        "USER $APP_USER",
        "EXPOSE $PORT",
        "ENV $NAME=x",
        "ARG U=$APP_USER\nUSER $U",
        "ENV U=${APP_USER}\nUSER $U",
    ] {
        assert!(is_unknown(&format!("FROM debian\n{line}")), "{line}");
        assert!(!is_unknown(&format!("FROM scratch\n{line}")), "{line}");
    }
    let image =
        read("FROM debian\nENV PATH=/x:$PATH A=1\nLABEL note=$A$B\nARG P=80\nEXPOSE $P", &[]).unwrap();
    assert_eq!(image.env["PATH"].value, "/x:$PATH");
    assert_eq!(image.labels["note"].value, "1$B");
    assert_eq!(image.ports[0].value, "80/tcp");
    assert!(is_unknown("FROM scratch\nARG BUILDARCH\nUSER $BUILDARCH"));
    assert!(read("FROM scratch\nARG BUILDARCH\nUSER $BUILDARCH", &[("BUILDARCH", "amd64")]).is_ok());
}

#[test]
fn another_frontend_is_refused() {
    for (syntax, is_known) in [
        ("docker/dockerfile:1", true),
        ("docker.io/docker/dockerfile:1.7-labs", true),
        ("docker/dockerfile@sha256:00", true),
        ("ghcr.io/x/frontend", false),
        ("docker/dockerfile-other", false),
    ] {
        let read = read(&format!("#!/usr/bin/env x\n# syntax = {syntax} x\nFROM scratch"), &[]);
        assert_eq!(read.is_ok(), is_known, "{syntax}");
    }
}

#[test]
fn what_would_take_too_long_is_not_read() {
    let doubled = (0..64).map(|_| "ENV A=$A$A\n").collect::<String>();
    assert!(matches!(
        read(&format!("FROM scratch\nENV A=x\n{doubled}"), &[]),
        Err(ImageError::Unknown { .. })
    ));
    let nested = format!("LABEL a={}x{}", "${A:-".repeat(5000), "}".repeat(5000));
    assert!(matches!(read(&format!("FROM scratch\n{nested}"), &[]), Err(ImageError::Unknown { .. })));
    assert!(read(&format!("FROM scratch\nLABEL a={}", "x".repeat(70_000)), &[]).is_err());
}
