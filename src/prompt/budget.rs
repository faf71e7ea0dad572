//! Context budgets.

use super::PromptError;

/// Checks that a prompt of `prompt` tokens and `new` generated ones fit a context of `context` tokens.
///
/// # Errors
/// [`PromptError::TooLong`] if they do not.
pub fn fit(prompt: usize, new: usize, context: usize) -> Result<(), PromptError> {
    match prompt.checked_add(new) {
        Some(total) if total <= context => Ok(()),
        _ => Err(PromptError::TooLong { limit: context }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_is_an_inclusive_limit() {
        assert_eq!(fit(8064, 128, 8192), Ok(()));
        assert_eq!(fit(8065, 128, 8192), Err(PromptError::TooLong { limit: 8192 }));
        assert_eq!(fit(1, usize::MAX, 8192), Err(PromptError::TooLong { limit: 8192 }));
    }
}
