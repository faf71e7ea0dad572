//! A model in several GGUF files, as `llama-gguf-split` writes them: metadata in the first, tensors in all.

use serde_json::Value;

use super::super::super::error::WeightsError;
use super::Header;

/// How many files there are.
const COUNT: &str = "split.count";
/// Which of them this is, from 0 on.
const NUMBER: &str = "split.no";
/// How many tensors all of them have.
const TENSORS: &str = "split.tensors.count";

/// Checks the headers of the files of a model of `architecture`, which are in the order of their names.
///
/// # Errors
/// The position of the file that does not fit to the others, and why.
pub(in crate::model) fn check_parts(
    headers: &[&Header],
    architecture: &str,
) -> Result<(), (usize, WeightsError)> {
    let count = headers.len() as u64;
    for (position, header) in headers.iter().enumerate() {
        let said = header.number(COUNT).unwrap_or(1);
        let number = header.number(NUMBER).unwrap_or(0);
        if said > 1 && count == 1 {
            return Err((position, WeightsError::OnePart { number: number + 1, count: said }));
        }
        if said != count || number != position as u64 {
            return Err((position, WeightsError::WrongPart { number: position as u64 + 1, count }));
        }
    }
    let Some(first) = headers.first() else { return Ok(()) };
    let found = first.metadata.get("general.architecture").and_then(Value::as_str);
    if found != Some(architecture) {
        let found = found.unwrap_or("an architecture that it does not name").escape_debug().to_string();
        return Err((0, WeightsError::Architecture(found)));
    }
    let there: usize = headers.iter().map(|header| header.tensors.len()).sum();
    if first.number(TENSORS).is_some_and(|said| said != there as u64) {
        return Err((0, WeightsError::PartsDisagree));
    }
    Ok(())
}

impl Header {
    fn number(&self, member: &str) -> Option<u64> {
        self.metadata.get(member).and_then(Value::as_u64)
    }
}
