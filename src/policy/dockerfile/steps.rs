//! Instructions with their arguments checked: what a builder refuses before it runs anything is refused here.
//!
//! A port of BuildKit's `frontend/dockerfile/instructions` (v0.32.2).

use super::lines::{self, Instruction};
use super::words::{at_blanks, list, pairs, pairs_or_none, words};
use super::{Builder, Problem, problem};

/// What an instruction does to an image's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Names with defaults.
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Expose(Vec<String>),
    User(String),
    Entrypoint(Line),
    Cmd(Line),
    Shell(Vec<String>),
    /// Whether there is a check.
    Healthcheck(bool),
    /// The instruction that runs where the stage is the base.
    Onbuild(String),
    /// The stage of `--from`, and words whose variables are put in.
    Copy {
        from: Option<String>,
        words: Vec<String>,
        documents: Vec<String>,
    },
    /// The stages that are mounted.
    Run {
        from: Vec<String>,
    },
    Volume(Vec<String>),
    Workdir(String),
    StopSignal(String),
    Nothing,
}

/// An entry point or arguments: words, or a line for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Words(Vec<String>),
    /// `None`: nothing was said.
    Shell(Option<String>),
}

/// `FROM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct From {
    pub(super) base: String,
    pub(super) platform: Option<String>,
    pub(super) name: Option<String>,
}

/// The flags that instructions take.
const RUN_FLAGS: &[(&str, Takes)] = &[
    ("mount", Takes::Values),
    ("network", Takes::Value),
    ("security", Takes::Value),
    ("device", Takes::Values),
];
const COPY_FLAGS: &[(&str, Takes)] = &[
    ("chown", Takes::Value),
    ("from", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Bool),
    ("exclude", Takes::Values),
    ("parents", Takes::Bool),
];
const ADD_FLAGS: &[(&str, Takes)] = &[
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Bool),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::Value),
    ("unpack", Takes::Bool),
    ("exclude", Takes::Values),
];
const HEALTHCHECK_FLAGS: &[(&str, Takes)] = &[
    ("interval", Takes::Value),
    ("timeout", Takes::Value),
    ("start-period", Takes::Value),
    ("start-interval", Takes::Value),
    ("retries", Takes::Value),
];
/// What buildah 1.28 knows of them.
const BUILDAH_FLAGS: &[(&str, &[&str])] = &[
    ("run", &["mount"]),
    ("copy", &["chown", "from", "chmod"]),
    ("add", &["chown", "chmod"]),
    ("healthcheck", &["interval", "timeout", "start-period", "retries"]),
    ("from", &["platform"]),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Bool,
    Value,
    Values,
}

/// Reads `FROM`.
pub(super) fn from(instruction: &Instruction, builder: Builder) -> Result<From, Problem> {
    let words = at_blanks(&instruction.rest);
    let (base, name) = match words.as_slice() {
        [base] => (base.clone(), None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (base.clone(), Some(name.clone())),
        _ => return problem("FROM takes an image, and AS with a name"),
    };
    let lower = name.as_ref().map(|name| name.to_lowercase());
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
    };
    if lower.as_ref().is_some_and(|name| !is_name(name)) {
        return problem("a stage's name starts with a letter and has letters, digits, -, _ and . only");
    }
    let mut flags = flags(instruction, &[("platform", Takes::Value)], builder)?;
    Ok(From {
        base,
        platform: flags.pop().map(|(_, value)| value),
        name: if builder.is_buildah() { name } else { lower },
    })
}

/// Reads every other instruction.
pub(super) fn step(instruction: &Instruction, builder: Builder, escape: char) -> Result<Step, Problem> {
    let rest = instruction.rest.as_str();
    let known: &[(&str, Takes)] = match instruction.name.as_str() {
        "run" => RUN_FLAGS,
        "copy" => COPY_FLAGS,
        "add" => ADD_FLAGS,
        "healthcheck" => HEALTHCHECK_FLAGS,
        _ => &[],
    };
    // Neither builder looks at those of ARG and STOPSIGNAL; buildah at those of few.
    let has_flags_checked = if builder.is_buildah() {
        BUILDAH_FLAGS.iter().any(|&(name, _)| name == instruction.name)
    } else {
        !["arg", "stopsignal"].contains(&instruction.name.as_str())
    };
    let flags = if has_flags_checked { flags(instruction, known, builder)? } else { Vec::new() };
    let one = || match rest {
        "" => problem(format!("{} takes one argument", instruction.name.to_uppercase())),
        rest => Ok(rest.to_owned()),
    };
    let at_least_one = |words: Vec<String>| match words.is_empty() {
        true => problem(format!("{} takes at least one argument", instruction.name.to_uppercase())),
        false => Ok(words),
    };
    Ok(match instruction.name.as_str() {
        "arg" => Step::Arg(arguments(&at_least_one(words(rest, escape))?)?),
        "env" => Step::Env(pairs(rest, escape)?),
        "label" => Step::Label(pairs(rest, escape)?),
        "expose" => Step::Expose(at_least_one(at_blanks(rest))?),
        "user" => Step::User(one()?),
        "entrypoint" => Step::Entrypoint(line(rest, builder)?),
        "cmd" => Step::Cmd(line(rest, builder)?),
        "shell" => match list(rest, builder)? {
            Some(words) => Step::Shell(at_least_one(words)?),
            None => return problem("SHELL takes a list"),
        },
        "healthcheck" => Step::Healthcheck(healthcheck(rest, builder)?),
        "onbuild" => Step::Onbuild(onbuild(instruction, escape)?),
        "copy" | "add" => copy(instruction, &flags, builder)?,
        "run" => Step::Run { from: mounts(&flags) },
        "workdir" => Step::Workdir(one()?),
        "maintainer" => one().map(|_| Step::Nothing)?,
        "stopsignal" => Step::StopSignal(one()?),
        "volume" => Step::Volume(at_least_one(list(rest, builder)?.unwrap_or_else(|| at_blanks(rest)))?),
        "from" => return problem("FROM cannot stand here"),
        name => return problem(format!("{name:?} is no instruction of a Dockerfile")),
    })
}

fn flags(
    instruction: &Instruction,
    known: &[(&str, Takes)],
    builder: Builder,
) -> Result<Vec<(String, String)>, Problem> {
    let of_buildah =
        BUILDAH_FLAGS.iter().find(|(name, _)| *name == instruction.name).map(|&(_, flags)| flags);
    let mut found: Vec<(String, String)> = Vec::new();
    for flag in &instruction.flags {
        let (name, value) =
            flag.split_once('=').map_or((flag.as_str(), None), |(name, value)| (name, Some(value)));
        let name = name.strip_prefix("--").unwrap_or(name);
        let takes = known.iter().find(|(known, _)| *known == name).map(|&(_, takes)| takes);
        let takes =
            takes.filter(|_| !builder.is_buildah() || of_buildah.is_some_and(|flags| flags.contains(&name)));
        let is_again = found.iter().any(|(found, _)| found == name);
        match (takes, value) {
            (None, _) => {
                return problem(format!("{} has no flag --{name}", instruction.name.to_uppercase()));
            }
            (Some(Takes::Bool), None) => {}
            (Some(Takes::Bool), Some(value))
                if ["true", "false"].contains(&value.to_lowercase().as_str()) => {}
            (Some(Takes::Value | Takes::Values), Some(_)) => {}
            _ => return problem(format!("--{name} has no value, or a wrong one")),
        }
        if is_again && takes != Some(Takes::Values) {
            return problem(format!("--{name} is given twice"));
        }
        found.push((name.to_owned(), value.unwrap_or_default().to_owned()));
    }
    Ok(found)
}

fn arguments(words: &[String]) -> Result<Vec<(String, Option<String>)>, Problem> {
    let argument = |word: &String| match word.split_once('=') {
        Some(("", _)) => problem("ARG has a blank name"),
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => Ok((word.clone(), None)),
    };
    words.iter().map(argument).collect()
}

fn line(rest: &str, builder: Builder) -> Result<Line, Problem> {
    Ok(match list(rest, builder)? {
        Some(words) => Line::Words(words),
        None => Line::Shell(Some(rest).filter(|rest| !rest.is_empty()).map(str::to_owned)),
    })
}

fn healthcheck(rest: &str, builder: Builder) -> Result<bool, Problem> {
    let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let rest = rest.trim_start();
    let is_empty_list = || list(rest, builder).map(|list| list.is_some_and(|words| words.is_empty()));
    match kind.to_uppercase().as_str() {
        "NONE" if rest.is_empty() => Ok(false),
        "NONE" => problem("HEALTHCHECK NONE takes no arguments"),
        "CMD" if rest.is_empty() || is_empty_list()? => problem("HEALTHCHECK CMD has no command"),
        "CMD" => Ok(true),
        _ => problem("HEALTHCHECK takes CMD or NONE"),
    }
}

fn onbuild(instruction: &Instruction, escape: char) -> Result<String, Problem> {
    let original = instruction.original.trim_start();
    let trigger = original.get("onbuild".len()..).unwrap_or_default().trim_start();
    let inner = lines::instruction(instruction.line, &instruction.rest, Builder::BuildKit, escape)?;
    match inner.name.as_str() {
        "" => return problem("ONBUILD takes an instruction"),
        "onbuild" | "maintainer" | "from" => {
            return problem(format!("ONBUILD cannot take {}", inner.name.to_uppercase()));
        }
        "env" | "label" => drop(pairs_or_none(&inner.rest, escape)?),
        _ => drop(list(&inner.rest, Builder::BuildKit)?),
    }
    let documents =
        instruction.documents.iter().map(|document| format!("\n{}{}", document.content, document.name));
    Ok(documents.fold(trigger.to_owned(), |trigger, document| trigger + &document))
}

fn copy(instruction: &Instruction, flags: &[(String, String)], builder: Builder) -> Result<Step, Problem> {
    let words = list(&instruction.rest, builder)?.unwrap_or_else(|| at_blanks(&instruction.rest));
    let [sources @ .., destination] = words.as_slice() else {
        return problem("COPY and ADD take at least two arguments");
    };
    if sources.is_empty() {
        return problem("COPY and ADD take at least two arguments");
    }
    let is_document =
        |word: &str| !builder.is_buildah() && matches!(lines::document(word, builder), Ok(Some(_)));
    if builder.is_buildah() && words.iter().any(|word| word.trim_start_matches(['"', '\'']).starts_with("<<"))
    {
        return problem("buildah 1.28 knows no here-documents");
    }
    if is_document(destination) {
        return problem("a destination cannot be a here-document");
    }
    let others = words.iter().filter(|word| !is_document(word)).cloned();
    let owners = flags.iter().filter(|(name, _)| ["chown", "chmod"].contains(&name.as_str()));
    let expanded = instruction.documents.iter().filter(|document| document.is_expanded);
    Ok(Step::Copy {
        from: flags.iter().find(|(name, value)| name == "from" && !value.is_empty()).map(|(_, v)| v.clone()),
        words: others.chain(owners.map(|(_, value)| value.clone())).collect(),
        documents: expanded.map(|document| document.content.clone()).collect(),
    })
}

/// The stages in `--mount=type=bind,from=STAGE`.
fn mounts(flags: &[(String, String)]) -> Vec<String> {
    let fields = flags.iter().filter(|(name, _)| name == "mount").flat_map(|(_, value)| value.split(','));
    fields.filter_map(|field| field.trim().strip_prefix("from=")).map(str::to_owned).collect()
}
