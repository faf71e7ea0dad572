//! Stages: which one is the image, what it inherits, and what its instructions set.
//!
//! A port of BuildKit's `frontend/dockerfile/dockerfile2llb` (v0.32.2), and of buildah 1.28 where [`Builder`] is asked.

use std::collections::{BTreeMap, BTreeSet};

use super::build::{Build, Built, Variables, known, value_of};
use super::expand::{Expanded, Lex, Value};
use super::lines::{Instruction, Parsed};
use super::reference;
use super::stage::State;
use super::steps::{self, From, Step};
use super::{Builder, Problem, problem, unknown};
use crate::policy::image::{Image, Kind, Set};

/// A problem and the line where it is.
type Located<T> = Result<T, (usize, Problem)>;

/// What an image from scratch has.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Of the machine that builds: `$BUILDPLATFORM`. Confidential Space runs linux/amd64 and nothing else.
const OF_THE_BUILDER: &[&str] = &["BUILDPLATFORM", "BUILDOS", "BUILDOSVERSION", "BUILDARCH", "BUILDVARIANT"];
const OF_THE_TARGET: &[(&str, &str)] = &[
    ("TARGETPLATFORM", "linux/amd64"),
    ("TARGETOS", "linux"),
    ("TARGETARCH", "amd64"),
    ("TARGETVARIANT", ""),
];
/// The names of an ARG with their defaults.
type Arguments = Vec<(String, Option<String>)>;

/// A stage as it is written.
struct Stage {
    line: usize,
    from: From,
    /// The base with its variables put in.
    base: String,
    /// The earlier stage that it is based on.
    parent: Option<usize>,
    steps: Vec<(usize, Step)>,
}

impl<'a> Build<'a> {
    /// The image of the last stage.
    pub(super) fn run(
        parsed: &Parsed,
        builder: Builder,
        given: &'a BTreeMap<String, String>,
    ) -> Located<Image> {
        let mut build = Self {
            builder,
            lex: Lex::new(builder, parsed.escape),
            escape: parsed.escape,
            given,
            global: BTreeMap::new(),
        };
        let mut stages = build.stages(&parsed.instructions)?;
        let needed = build.needed(&mut stages)?;
        let mut built: BTreeMap<usize, Built> = BTreeMap::new();
        for index in needed {
            let Some(stage) = stages.get(index) else { continue };
            let base = stage.parent.and_then(|parent| built.get(&parent)).cloned();
            built.insert(index, build.stage(stage, base)?);
        }
        match built.pop_last() {
            Some((_, last)) => Ok(last.image),
            None => problem("there is no FROM").map_err(|problem| (1, problem)),
        }
    }

    fn stages(&mut self, instructions: &[Instruction]) -> Located<Vec<Stage>> {
        let (mut stages, mut global): (Vec<Stage>, _) = (Vec::new(), Vec::new());
        for instruction in instructions {
            let line = instruction.line;
            let at = |problem: Problem| (line, problem);
            if instruction.name == "from" {
                let from = steps::from(instruction, self.builder).map_err(at)?;
                stages.push(Stage { line, from, base: String::new(), parent: None, steps: Vec::new() });
                continue;
            }
            let step = steps::step(instruction, self.builder, self.escape).map_err(at)?;
            match (stages.last_mut(), step) {
                (None, Step::Arg(arguments)) => global.push((line, arguments)),
                (None, _) => return problem("before the first FROM only ARG may stand").map_err(at),
                (Some(stage), step) => stage.steps.push((line, step)),
            }
        }
        self.globals(&global, stages.last())?;
        for index in 0..stages.len() {
            let (earlier, rest) = stages.split_at_mut(index);
            let Some(stage) = rest.first_mut() else { break };
            let at = |problem: Problem| (stage.line, problem);
            let base = self.put_in(&stage.from.base, &self.global).and_then(known).map_err(at)?;
            if base.is_empty() {
                return problem(format!("the base {} is blank", stage.from.base)).map_err(at);
            }
            if let Some(platform) = &stage.from.platform {
                let platform = self.put_in(platform, &self.global).map_err(at)?;
                if platform.text.is_empty() {
                    return problem("the platform is blank").map_err(at);
                }
            }
            stage.parent = self.parent(stage, &base, earlier).map_err(at)?;
            if stage.parent.is_none() && !reference::is_valid(&base) {
                return problem(format!("{base} is no stage, and no name of an image")).map_err(at);
            }
            stage.base = base;
        }
        Ok(stages)
    }

    /// ARG before the first FROM.
    fn globals(&mut self, global: &[(usize, Arguments)], last: Option<&Stage>) -> Located<()> {
        for &(name, value) in OF_THE_TARGET {
            self.global.insert(name.to_owned(), Value::Known(value.to_owned()));
        }
        for &name in OF_THE_BUILDER {
            self.global.insert(name.to_owned(), Value::Unknown);
        }
        if !self.builder.is_buildah() {
            let target =
                last.and_then(|stage| stage.from.name.clone()).unwrap_or_else(|| "default".to_owned());
            self.global.insert("TARGETSTAGE".to_owned(), Value::Known(target));
            self.global.insert("TARGETOSVERSION".to_owned(), Value::Known(String::new()));
        }
        for (name, value) in self.given {
            if let Some(set) = self.global.get_mut(name) {
                *set = Value::Known(value.clone());
            }
        }
        for (line, arguments) in global {
            let before = self.global.clone();
            for (name, default) in arguments {
                let value = match (self.given.get(name), default) {
                    (Some(value), _) => Value::Known(value.clone()),
                    (None, None) => continue,
                    (None, Some(default)) => {
                        // buildah puts variables into all words of a line before it sets any.
                        let scope = if self.builder.is_buildah() { &before } else { &self.global };
                        self.put_in(default, scope).map(value_of).map_err(|problem| (*line, problem))?
                    }
                };
                self.global.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    fn put_in(&self, word: &str, scope: &Variables) -> Result<Expanded, Problem> {
        self.lex.word(word, &|name| scope.get(name).cloned().unwrap_or(Value::Unset))
    }

    /// The earlier stage that `base` names.
    fn parent(&self, stage: &Stage, base: &str, earlier: &[Stage]) -> Result<Option<usize>, Problem> {
        if !self.builder.is_buildah() {
            return Ok(earlier.iter().rposition(|stage| stage.from.name.as_deref() == Some(base)));
        }
        let is_named = |(index, stage): (usize, &Stage)| match &stage.from.name {
            Some(name) => name == base,
            None => index.to_string() == base,
        };
        let mut found =
            (0..earlier.len()).filter(|&index| earlier.get(index).is_some_and(|s| is_named((index, s))));
        let first = found.next();
        if found.next().is_some() {
            return unknown(format!("two stages are named {base}: buildah takes the one that ends last"));
        }
        // It looks for the stages that are needed before it knows the arguments before the first FROM.
        let scope =
            self.given.iter().map(|(name, value)| (name.clone(), Value::Known(value.clone()))).collect();
        if first.is_some() && self.put_in(&stage.from.base, &scope)?.text != base {
            return problem(format!("buildah finds no stage {base} through {}", stage.from.base));
        }
        Ok(first)
    }

    /// The ONBUILD instructions of a base, which run before those of a stage.
    fn triggered(&self, stage: &Stage, parent: &Stage) -> Located<Vec<(usize, Step)>> {
        let mut triggered = Vec::new();
        if self.builder == (Builder::Buildah { onbuild: false }) {
            return Ok(triggered);
        }
        for (_, step) in &parent.steps {
            let Step::Onbuild(trigger) = step else { continue };
            let at = |problem: Problem| (stage.line, problem);
            let parsed = super::lines::parse(trigger, self.builder).map_err(|(_, problem)| at(problem))?;
            let [instruction] = parsed.instructions.as_slice() else {
                return problem("ONBUILD of the base takes one instruction").map_err(at);
            };
            let step = steps::step(instruction, self.builder, parsed.escape).map_err(at)?;
            triggered.push((stage.line, step));
        }
        Ok(triggered)
    }

    /// The stages that the last one needs, in the order of the file; others are not built.
    fn needed(&self, stages: &mut [Stage]) -> Located<BTreeSet<usize>> {
        let mut needed: BTreeSet<usize> = stages.len().checked_sub(1).into_iter().collect();
        for index in (0..stages.len()).rev() {
            let is_needed = needed.contains(&index);
            if let Some((stage, parent)) = with_parent(stages, index).filter(|_| is_needed) {
                let triggered = self.triggered(stage, parent)?;
                needed.extend(stage.parent);
                stage.steps.splice(0..0, triggered);
            }
            let Some(stage) = stages.get(index) else { continue };
            for (line, step) in &stage.steps {
                let names = match step {
                    Step::Copy { from: Some(from), .. } => std::slice::from_ref(from),
                    Step::Run { from } => from.as_slice(),
                    _ => continue,
                };
                for name in names {
                    let found = self.source(name, stages, matches!(step, Step::Copy { .. }));
                    let found = found.map_err(|problem| (*line, problem))?;
                    if is_needed && found.is_some_and(|found| found >= index) {
                        return problem(format!("stage {name} is not built yet")).map_err(|p| (*line, p));
                    }
                    needed.extend(found.filter(|_| is_needed));
                }
            }
        }
        Ok(needed)
    }

    /// The stage that `--from` names, by number or name.
    fn source(&self, name: &str, stages: &[Stage], may_be_number: bool) -> Result<Option<usize>, Problem> {
        if !self.builder.is_buildah() && may_be_number {
            let plain = self.lex.word(name, &|_| Value::Unset)?;
            if plain.text != name {
                return problem("--from takes no variables: use FROM with ARG");
            }
        }
        if may_be_number && let Ok(index) = name.parse::<usize>() {
            return match stages.get(index) {
                Some(_) => Ok(Some(index)),
                None => problem(format!("there is no stage {index}")),
            };
        }
        let is_it = |stage: &Stage| match &stage.from.name {
            Some(known) if self.builder.is_buildah() => known == name,
            Some(known) => *known == name.to_lowercase(),
            None => false,
        };
        Ok(stages.iter().rposition(is_it))
    }

    fn stage(&self, stage: &Stage, base: Option<Built>) -> Located<Built> {
        let mut built = base.unwrap_or_else(|| Built::from_image(stage));
        let mut state = State::new(self, &mut built);
        for (line, step) in &stage.steps {
            state.take(*line, step).map_err(|problem| (*line, problem))?;
        }
        Ok(built)
    }
}

impl Built {
    fn from_image(stage: &Stage) -> Self {
        let is_open = stage.base != "scratch";
        let mut built = Self { is_open, ..Self::default() };
        built.image.kind = Kind::Dockerfile;
        if is_open {
            built.image.base = Some(Set::at(stage.line, stage.base.clone()));
        } else {
            built.image.env.insert("PATH".to_owned(), Set::somewhere(DEFAULT_PATH.to_owned()));
            built.variables.insert("PATH".to_owned(), Value::Known(DEFAULT_PATH.to_owned()));
        }
        built
    }
}

/// The stage and the earlier one that it is based on.
fn with_parent(stages: &mut [Stage], index: usize) -> Option<(&mut Stage, &Stage)> {
    let (earlier, rest) = stages.split_at_mut_checked(index)?;
    let stage = rest.first_mut()?;
    let parent = earlier.get(stage.parent?)?;
    Some((stage, parent))
}
