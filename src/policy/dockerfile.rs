//! A Dockerfile, as far as it decides an image's configuration: the last stage, with arguments put in.
//!
//! Nothing is run and no base image is read, so what a base image sets stays unknown.

use std::collections::BTreeMap;

use super::image::{Command, Image, ImageError, Kind, Set};

/// What is known while reading.
#[derive(Default)]
struct Reader {
    /// Given from outside.
    arguments: BTreeMap<String, String>,
    /// `ARG` before the first `FROM`.
    global: BTreeMap<String, String>,
    /// `ARG` of the stage.
    local: BTreeMap<String, String>,
    stages: Vec<(Option<String>, Image)>,
}

/// Reads the last stage of a Dockerfile.
pub(super) fn read(text: &str, arguments: &BTreeMap<String, String>) -> Result<Image, ImageError> {
    let mut reader = Reader { arguments: arguments.clone(), ..Reader::default() };
    for (line, instruction) in instructions(text) {
        reader.take(line, &instruction)?;
    }
    let last = reader.stages.pop();
    last.map(|(_, image)| image).ok_or(ImageError::Dockerfile { line: 1, problem: "there is no FROM" })
}

impl Reader {
    fn take(&mut self, line: usize, instruction: &str) -> Result<(), ImageError> {
        let (name, rest) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
        let rest = rest.trim();
        let name = name.to_ascii_uppercase();
        match name.as_str() {
            "ARG" => self.argument(rest),
            "FROM" => return self.stage(line, rest),
            "LABEL" | "ENV" => {
                for (key, value) in pairs(rest).ok_or(ImageError::Dockerfile {
                    line,
                    problem: "LABEL and ENV take NAME=VALUE, or one NAME and its VALUE",
                })? {
                    let (key, value) = (self.fill(&key), self.fill(&value));
                    let image = self.image(line)?;
                    let settings = if name == "ENV" { &mut image.env } else { &mut image.labels };
                    settings.insert(key, Set::at(line, value));
                }
            }
            "EXPOSE" => {
                let filled = self.fill(rest);
                let image = self.image(line)?;
                image.ports.extend(filled.split_whitespace().map(|port| Set::at(line, port.to_owned())));
            }
            "USER" => {
                let user = self.fill(rest);
                self.image(line)?.user = Some(Set::at(line, user));
            }
            "ENTRYPOINT" => {
                let image = self.image(line)?;
                image.entrypoint = command(rest).map(|command| Set::at(line, command));
                // As Docker does: the base image's arguments belong to the base image's entry point.
                image.cmd = None;
            }
            "CMD" => self.image(line)?.cmd = command(rest).map(|command| Set::at(line, command)),
            "HEALTHCHECK" => self.image(line)?.healthcheck = !rest.eq_ignore_ascii_case("NONE"),
            "ADD" | "COPY" | "MAINTAINER" | "ONBUILD" | "RUN" | "SHELL" | "STOPSIGNAL" | "VOLUME"
            | "WORKDIR" => {}
            _ => return Err(ImageError::Dockerfile { line, problem: "no instruction of a Dockerfile" }),
        }
        Ok(())
    }

    fn argument(&mut self, rest: &str) {
        let (name, default) = rest.split_once('=').unwrap_or((rest, ""));
        let default = self.fill(&unquoted(default));
        // Without a default, the stage takes that of before the first FROM.
        let known = (!rest.contains('=')).then(|| self.global.get(name).cloned()).flatten();
        let value = self.arguments.get(name).cloned().or(known).unwrap_or(default);
        let scope = if self.stages.is_empty() { &mut self.global } else { &mut self.local };
        scope.insert(name.to_owned(), value);
    }

    fn stage(&mut self, line: usize, rest: &str) -> Result<(), ImageError> {
        // Between stages only the arguments of before the first one are known.
        self.local.clear();
        let words: Vec<String> = rest
            .split_whitespace()
            .filter(|word| !word.starts_with("--"))
            .map(|word| fill(word, |name| self.global.get(name).cloned()))
            .collect();
        let (from, name) = match words.as_slice() {
            [from] => (from, None),
            [from, word, name] if word.eq_ignore_ascii_case("AS") => (from, Some(name.to_ascii_lowercase())),
            _ => {
                return Err(ImageError::Dockerfile {
                    line,
                    problem: "FROM takes an image, and AS with a name",
                });
            }
        };
        let earlier = from.to_ascii_lowercase();
        let earlier = self.stages.iter().find(|(name, _)| name.as_deref() == Some(&earlier));
        let image = earlier.map_or_else(
            || Image {
                kind: Kind::Dockerfile,
                base: Some(Set::at(line, from.clone())).filter(|base| base.value != "scratch"),
                ..Image::default()
            },
            |(_, image)| image.clone(),
        );
        self.stages.push((name, image));
        Ok(())
    }

    fn image(&mut self, line: usize) -> Result<&mut Image, ImageError> {
        let stage = self.stages.last_mut().map(|(_, image)| image);
        stage.ok_or(ImageError::Dockerfile { line, problem: "before the first FROM only ARG may stand" })
    }

    /// Puts variables in: those of the environment win, as Docker has it.
    fn fill(&self, text: &str) -> String {
        fill(text, |name| {
            let env = self.stages.last().and_then(|(_, image)| image.env.get(name));
            let scope = if self.stages.is_empty() { &self.global } else { &self.local };
            env.map(|set| set.value.clone()).or_else(|| scope.get(name).cloned())
        })
    }
}

/// Numbered instructions: continued lines joined, comments and here-documents left out.
fn instructions(text: &str) -> Vec<(usize, String)> {
    let escape = text
        .lines()
        .take_while(|line| line.trim_start().starts_with('#'))
        .filter_map(|line| line.trim_start_matches(['#', ' ']).strip_prefix("escape="))
        .filter_map(|character| character.trim().chars().next())
        .next()
        .unwrap_or('\\');
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    let mut open: Option<(usize, String)> = None;
    while let Some((index, line)) = lines.next() {
        let trimmed = line.trim();
        if trimmed.starts_with('#') || trimmed.is_empty() {
            continue;
        }
        let (start, mut whole) = open.take().unwrap_or((index + 1, String::new()));
        match trimmed.strip_suffix(escape) {
            Some(part) => {
                whole.push_str(part);
                whole.push(' ');
                open = Some((start, whole));
            }
            None => {
                whole.push_str(trimmed);
                for end in here_documents(&whole) {
                    // To its end, or to that of the file.
                    lines.by_ref().find(|(_, line)| line.trim_start_matches('\t') == end);
                }
                found.push((start, whole));
            }
        }
    }
    found.extend(open);
    found
}

/// The words that end the here-documents of `RUN`, `COPY` and `ADD`.
fn here_documents(instruction: &str) -> Vec<String> {
    let takes = ["RUN ", "COPY ", "ADD "]
        .iter()
        .any(|name| instruction.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)));
    let words = instruction.split_whitespace().filter(|_| takes);
    words
        .filter_map(|word| word.strip_prefix("<<"))
        .map(|word| word.trim_start_matches('-').trim_matches(['"', '\'']).to_owned())
        .filter(|word| !word.is_empty() && !word.starts_with('<'))
        .collect()
}

/// `A=b "C"="d e"`, or `A the rest`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let words = words(text);
    let first = words.first()?;
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(unquoted(name), unquoted(value.trim()))]);
    }
    let pair = |word: &String| {
        let (name, value) = split_unquoted(word)?;
        Some((unquoted(name), unquoted(value)))
    };
    words.iter().map(pair).collect()
}

/// Splits at the first `=` that is outside of quotes.
fn split_unquoted(word: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    let at = word.char_indices().find(|&(_, c)| match quote {
        Some(open) => {
            quote = (c != open).then_some(open);
            false
        }
        None => {
            quote = ['"', '\''].contains(&c).then_some(c);
            c == '='
        }
    });
    let (at, _) = at?;
    Some((word.get(..at)?, word.get(at + 1..)?))
}

/// Words, with their quotes, which may have spaces inside.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut escaped) = (Vec::new(), String::new(), None, false);
    for c in text.chars() {
        match quote {
            Some(open) if c == open && !escaped => quote = None,
            None if ['"', '\''].contains(&c) && !escaped => quote = Some(c),
            None if c.is_whitespace() && !escaped => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        word.push(c);
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// Without quotes, and without what protects a character; a protected `$` stays protected for [`fill`].
fn unquoted(text: &str) -> String {
    let (mut plain, mut quote) = (String::new(), None);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (Some('\''), '$') => plain.push_str("\\$"),
            (Some('"') | None, '\\') => match characters.next() {
                Some('$') => plain.push_str("\\$"),
                Some(next @ ('"' | '\\')) => plain.push(next),
                Some(next) if quote.is_none() => plain.push(next),
                Some(next) => plain.extend(['\\', next]),
                None => {}
            },
            (_, c) => plain.push(c),
        }
    }
    plain
}

/// Puts variables in: `$NAME`, `${NAME}`, `${NAME:-otherwise}`, `${NAME:+instead}`.
fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        if let Some(before) = before.strip_suffix('\\') {
            filled.push_str(before);
            filled.push('$');
            rest = after;
            continue;
        }
        filled.push_str(before);
        if let Some((inside, beyond)) = after.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            let end = inside.find(|c| !is_name(c)).unwrap_or(inside.len());
            let (name, change) =
                (inside.get(..end).unwrap_or_default(), inside.get(end..).unwrap_or_default());
            let found = value(name).filter(|value| !value.is_empty());
            if let Some(otherwise) = change.strip_prefix(":-") {
                filled.push_str(found.as_deref().unwrap_or(otherwise));
            } else if let Some(instead) = change.strip_prefix(":+") {
                filled.push_str(found.map_or("", |_| instead));
            } else {
                filled.push_str(&found.unwrap_or_default());
            }
            rest = beyond;
        } else {
            let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
            filled.push_str(&value(after.get(..end).unwrap_or_default()).unwrap_or_default());
            rest = after.get(end..).unwrap_or_default();
        }
    }
    filled.push_str(rest);
    filled
}

/// `["a", "b"]`, or a line for a shell; an empty list is none.
fn command(text: &str) -> Option<Command> {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) if words.is_empty() => None,
        Ok(words) => Some(Command::Words(words)),
        Err(_) => Some(Command::Shell(text.to_owned())).filter(|_| !text.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let text = "ARG TAG=1\nFROM base:${TAG}\nARG TAG\nARG USER_ID=65532\nENV A=${TAG} B=$USER_ID C=\\$TAG \
            D='$TAG' E=${NONE:-x} F=${TAG:+y}\nENV G=${A}${B}\nUSER ${USER_ID}\nEXPOSE 80$TAG/tcp";
        let image = read(text, &[]).unwrap();
        let value = |name: &str| image.env[name].value.clone();
        let found = ["A", "B", "C", "D", "E", "F", "G"].map(value);
        assert_eq!(found, ["1", "65532", "$TAG", "$TAG", "x", "y", "165532"]);
        assert_eq!(image.user.unwrap().value, "65532");
        assert_eq!(image.ports[0].value, "801/tcp");
        assert_eq!(image.base.unwrap().value, "base:1");
        assert!(read(text, &[("USER_ID", "0"), ("TAG", "2")]).unwrap().runs_as_root());
    }

    #[test]
    fn the_last_stage_is_the_image_and_inherits_from_an_earlier_one() {
        let text = "FROM a AS one\nEXPOSE 1\nENV X=1\nFROM b\nENV Y=1\nFROM ONE AS two\nEXPOSE 2/udp";
        let image = read(text, &[]).unwrap();
        assert_eq!(image.ports.iter().map(|port| port.value.as_str()).collect::<Vec<_>>(), ["1", "2/udp"]);
        assert_eq!(image.env.keys().collect::<Vec<_>>(), ["X"]);
        assert_eq!(image.base.unwrap().value, "a");
        assert_eq!(read("FROM scratch", &[]).unwrap().base, None);
    }

    #[test]
    fn commands_are_words_or_a_line() {
        let image = read("FROM a\nCMD x\nENTRYPOINT [\"/s\", \"-v\"]", &[]).unwrap();
        assert_eq!(image.entrypoint.unwrap().value, Command::Words(vec!["/s".into(), "-v".into()]));
        assert_eq!(image.cmd, None, "an entry point forgets the arguments before it");
        let image = read("FROM a\nENTRYPOINT exec /s\nCMD []\nHEALTHCHECK CMD true", &[]).unwrap();
        assert_eq!(image.entrypoint.unwrap().value, Command::Shell("exec /s".into()));
        assert!(image.cmd.is_none() && image.healthcheck);
    }

    #[test]
    fn here_documents_and_comments_are_no_instructions() {
        let text = "# escape=`\n\nFROM a\nRUN <<EOF\nEXPOSE 9\nEOF\n# EXPOSE 8\nEXPOSE `\n 7\n";
        let image = read(text, &[]).unwrap();
        assert_eq!(image.ports, [Set::at(8, "7".to_owned())]);
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
}
