//! A stage: what its instructions set.

use std::collections::BTreeSet;

use super::build::{Build, Built, Variables, known, value_of};
use super::expand::{Expanded, Lex, Value};
use super::ports;
use super::steps::{Line, Step};
use super::{Problem, problem};
use crate::policy::image::{Command, Set};
use crate::policy::labels::PREFIX;

const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// buildah takes these from `--build-arg` without an ARG.
const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// A stage while it is built.
pub(super) struct State<'a> {
    build: &'a Build<'a>,
    built: &'a mut Built,
    /// buildah: the values of arguments, and those that an ARG allows.
    arguments: Variables,
    allowed: BTreeSet<String>,
    /// Whether this stage, and not its base, said CMD.
    is_cmd_set: bool,
}

impl<'a> State<'a> {
    pub(super) fn new(build: &'a Build<'a>, built: &'a mut Built) -> Self {
        if build.builder.is_buildah() {
            // What it hands on is the image.
            built.variables.clear();
        }
        let given = build.given.iter().map(|(name, value)| (name.clone(), Value::Known(value.clone())));
        Self {
            build,
            built,
            arguments: given.collect(),
            allowed: PROXIES.iter().map(|&name| name.to_owned()).collect(),
            is_cmd_set: false,
        }
    }

    fn value(&self, name: &str) -> Value {
        let otherwise = if self.built.is_open { Value::Unknown } else { Value::Unset };
        if let Some(value) = self.built.variables.get(name) {
            return value.clone();
        }
        if !self.build.builder.is_buildah() {
            return otherwise;
        }
        // The environment wins over arguments.
        if let Some(set) = self.built.image.env.get(name) {
            return Value::Known(set.value.clone());
        }
        let argument = self.arguments.get(name).filter(|_| self.allowed.contains(name));
        argument.cloned().unwrap_or(otherwise)
    }

    fn put_in(&self, word: &str) -> Result<Expanded, Problem> {
        self.build.lex.word(word, &|name| self.value(name))
    }

    pub(super) fn take(&mut self, line: usize, step: &Step) -> Result<(), Problem> {
        let is_buildah = self.build.builder.is_buildah();
        match step {
            Step::Arg(arguments) if is_buildah => return self.buildah_argument(arguments),
            Step::Arg(arguments) => return self.argument(arguments),
            Step::Env(pairs) => {
                for (name, value) in self.pairs(pairs)? {
                    let name = known(name)?;
                    let stored = value_of(value.clone());
                    // What is stored is NAME=VALUE: a name with an equals sign is cut there.
                    let whole = format!("{name}={}", value.text);
                    let (short, rest) = whole.split_once('=').unwrap_or((&whole, ""));
                    self.built.image.env.insert(short.to_owned(), Set::at(line, rest.to_owned()));
                    self.built.variables.insert(if is_buildah { short.to_owned() } else { name }, stored);
                }
            }
            Step::Label(pairs) => {
                for (name, value) in self.pairs(pairs)? {
                    let name = known(name)?;
                    let is_policy = name.to_ascii_lowercase().starts_with(PREFIX);
                    let value = if is_policy { known(value)? } else { value.text };
                    self.built.image.labels.insert(name, Set::at(line, value));
                }
            }
            Step::Expose(words) => self.expose(line, words)?,
            Step::User(user) => {
                let user = known(self.put_in(user)?)?;
                self.built.image.user = Some(Set::at(line, user));
            }
            Step::Entrypoint(words) => {
                let entrypoint = match words {
                    Line::Shell(None) if is_buildah => None,
                    words => self.command(words),
                };
                self.built.image.entrypoint = entrypoint.map(|command| Set::at(line, command));
                // The arguments of a base belong to the base's entry point.
                if !self.is_cmd_set {
                    self.built.image.cmd = None;
                }
            }
            Step::Cmd(words) => {
                self.built.image.cmd = self.command(words).map(|command| Set::at(line, command));
                self.is_cmd_set = true;
            }
            Step::Shell(words) => self.built.shell.clone_from(words),
            Step::Healthcheck(is_check) => self.built.image.healthcheck = *is_check,
            Step::Copy { words, documents, .. } => {
                self.check(words)?;
                let mut lex = Lex::new(self.build.builder, '\\');
                lex.skip_quotes = true;
                for document in documents {
                    lex.word(document, &|name| self.value(name))?;
                }
            }
            Step::Workdir(folder) => drop(self.put_in(folder)?),
            Step::Volume(words) => {
                for word in words {
                    let volume = self.put_in(word)?;
                    if word.trim().is_empty() || volume.text.is_empty() {
                        return problem("a VOLUME is blank");
                    }
                }
            }
            Step::StopSignal(signal) => {
                let signal = self.put_in(signal)?;
                if signal.unknown.is_none() && !is_signal(&signal.text) {
                    return problem(format!("{:?} is no signal", signal.text));
                }
            }
            Step::Onbuild(_) | Step::Run { .. } | Step::Nothing => {}
        }
        Ok(())
    }

    fn check(&self, words: &[String]) -> Result<(), Problem> {
        words.iter().try_for_each(|word| self.put_in(word).map(drop))
    }

    /// All pairs of an instruction see the values from before it.
    fn pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(Expanded, Expanded)>, Problem> {
        pairs.iter().map(|(name, value)| Ok((self.put_in(name)?, self.put_in(value)?))).collect()
    }

    fn argument(&mut self, arguments: &[(String, Option<String>)]) -> Result<(), Problem> {
        for (name, default) in arguments {
            let value = match (self.build.given.get(name), default) {
                (Some(given), _) => Value::Known(given.clone()),
                (None, Some(default)) => value_of(self.put_in(default)?),
                // The variables in it were put in before the first FROM.
                (None, None) => match self.build.global.get(name) {
                    Some(value) => value.clone(),
                    None => continue,
                },
            };
            self.built.variables.insert(name.clone(), value);
        }
        Ok(())
    }

    fn buildah_argument(&mut self, arguments: &[(String, Option<String>)]) -> Result<(), Problem> {
        let words: Result<Vec<_>, Problem> = arguments
            .iter()
            .map(|(name, default)| {
                let whole =
                    default.as_ref().map_or_else(|| name.clone(), |default| format!("{name}={default}"));
                self.put_in(&whole)
            })
            .collect();
        for word in words? {
            let (name, default) = match word.text.split_once('=') {
                Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
                None => (word.text.clone(), None),
            };
            let default = default.map(|text| value_of(Expanded { text, unknown: word.unknown.clone() }));
            if !self.build.given.contains_key(&name)
                && let Some(value) = default.or_else(|| self.build.global.get(&name).cloned())
            {
                self.arguments.insert(name.clone(), value);
            }
            self.allowed.insert(name);
        }
        Ok(())
    }

    fn expose(&mut self, line: usize, words: &[String]) -> Result<(), Problem> {
        let mut ports = Vec::new();
        for word in words {
            for port in self.build.lex.words(word, &|name| self.value(name))? {
                ports.push(known(port)?);
            }
        }
        if ports.is_empty() && self.build.builder.is_buildah() {
            return problem("EXPOSE takes at least one argument");
        }
        let image = &mut self.built.image;
        let before: BTreeSet<String> =
            image.ports.iter().map(|port| ports::number(&port.value).to_owned()).collect();
        for port in &ports {
            let made = if !self.build.builder.is_buildah() {
                ports::of_buildkit(port)?
            } else if before.contains(ports::number(port)) {
                // buildah looks at the number alone.
                Vec::new()
            } else {
                vec![ports::of_buildah(port)]
            };
            for port in made {
                if !image.ports.iter().any(|known| known.value == port) {
                    image.ports.push(Set::at(line, port));
                }
            }
        }
        Ok(())
    }

    fn command(&self, line: &Line) -> Option<Command> {
        match line {
            Line::Words(words) => Some(Command::Words(words.clone())).filter(|_| !words.is_empty()),
            Line::Shell(text) => {
                let is_buildah = self.build.builder.is_buildah();
                let own = Some(&self.built.shell).filter(|shell| !shell.is_empty() && !is_buildah);
                let shell = own.cloned().unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).to_vec());
                let text = if is_buildah { text.clone() } else { Some(text.clone().unwrap_or_default()) };
                Some(Command::Shell(shell.into_iter().chain(text).collect()))
            }
        }
    }
}

fn is_signal(signal: &str) -> bool {
    const NAMES: &str = " ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT \
        STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX ";
    if let Ok(number) = signal.parse::<i32>() {
        return number != 0;
    }
    let upper = signal.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |start: &str, most: u8| {
        name.strip_prefix(start)
            .and_then(|offset| offset.parse::<u8>().ok())
            .is_some_and(|o| (1..=most).contains(&o))
    };
    let is_word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
    (is_word && NAMES.contains(&format!(" {name} "))) || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}
