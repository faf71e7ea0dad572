//! The bounds of one evaluation.

use std::collections::HashMap;
use std::sync::Arc;

use super::Reason;
use super::re2::Pattern;
use super::stop::Stop;

/// Bounds comparisons of elements and characters that patterns look at; far above what conditions need.
const MAX_STEPS: u64 = 5_000_000;

/// Steps made, and patterns compiled, in one evaluation.
#[derive(Default)]
pub(super) struct Steps {
    made: u64,
    patterns: HashMap<Arc<str>, Arc<Pattern>>,
}

impl Steps {
    /// Compiles a pattern once.
    pub(super) fn pattern(&mut self, text: &Arc<str>) -> Result<Arc<Pattern>, Stop> {
        if let Some(known) = self.patterns.get(text) {
            return Ok(Arc::clone(known));
        }
        self.add(10_000)?;
        let pattern = Arc::new(Pattern::compile(text)?);
        self.patterns.insert(Arc::clone(text), Arc::clone(&pattern));
        Ok(pattern)
    }

    pub(super) fn add(&mut self, count: u64) -> Result<(), Stop> {
        self.made = self.made.saturating_add(count);
        if self.made > MAX_STEPS {
            return Err(Stop::undecided(
                Reason::Budget,
                format!(
                    "evaluation takes more than {MAX_STEPS} steps on these claims: make the condition simpler"
                ),
            ));
        }
        Ok(())
    }
}
