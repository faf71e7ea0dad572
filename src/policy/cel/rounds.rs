//! What the rounds of a macro come to.

use std::sync::Arc;

use super::ast::Macro;
use super::evaluated::{Evaluated, no_overload};
use super::stop::Stop;
use super::value::Value;

/// What a macro's rounds have come to.
pub(super) struct Rounds {
    name: Macro,
    found: Vec<Value>,
    count: usize,
    failed: Option<Stop>,
}

impl Rounds {
    pub(super) fn new(name: Macro) -> Self {
        Self { name, found: Vec::new(), count: 0, failed: None }
    }

    /// Whether it is decided.
    pub(super) fn add(&mut self, outcome: Evaluated, item: Value) -> Result<bool, Stop> {
        let value = match outcome {
            Ok(value) => value,
            Err(error @ Stop::Error(_)) => {
                self.failed.get_or_insert(error);
                return Ok(false);
            }
            Err(stop) => return Err(stop),
        };
        if self.name == Macro::Map {
            self.found.push(value);
            return Ok(false);
        }
        let Value::Bool(holds) = value else {
            self.failed.get_or_insert_with(|| no_overload(self.name.name(), &[&value]));
            return Ok(false);
        };
        match self.name {
            Macro::All if !holds => {
                self.failed = None;
                self.count = 1;
                return Ok(true);
            }
            Macro::Exists if holds => {
                self.failed = None;
                self.count = 1;
                return Ok(true);
            }
            Macro::ExistsOne => self.count += usize::from(holds),
            Macro::Filter if holds => self.found.push(item),
            _ => {}
        }
        Ok(false)
    }

    pub(super) fn result(self) -> Evaluated {
        if let Some(stop) = self.failed {
            return Err(stop);
        }
        Ok(match self.name {
            Macro::All => Value::Bool(self.count == 0),
            Macro::Exists | Macro::ExistsOne => Value::Bool(self.count == 1),
            Macro::Map | Macro::Filter => Value::List(Arc::new(self.found)),
        })
    }
}
