//! llama.cpp's `/infill`.

use super::body::{Body, Extra};
use super::{BadBody, ContextFile, EditorRequest, Hole, Task};
use crate::secret::Secret;

/// `prompt` is what the hole begins with: llama.vim sends the cursor's line there.
pub(super) fn infill(mut body: Body) -> Result<EditorRequest, BadBody> {
    let options = body.options();
    let reply = body.reply(false);
    let middle = body.prompt()?;
    let (prefix, suffix) = (body.input_prefix.take(), body.input_suffix.take());
    let (prefix, suffix) = match (prefix, suffix) {
        (None, None) => match (middle.is_some(), body.suffix.take()) {
            // Some clients send OpenAI's members here.
            (true, Some(suffix)) => return Ok(openai_members(middle, suffix, options, reply)),
            _ => return Err(BadBody::Missing("input_prefix")),
        },
        (prefix, suffix) => (prefix, suffix),
    };
    let empty = || Secret::new(String::new());
    let mut hole = Hole::new(prefix.unwrap_or_else(empty), suffix.unwrap_or_else(empty));
    hole.middle = middle.unwrap_or_else(empty);
    hole.context = std::mem::take(&mut body.input_extra.0).into_iter().filter_map(context).collect();
    Ok(EditorRequest { task: Task::Hole(hole), options, reply })
}

fn openai_members(
    prompt: Option<Secret<String>>,
    suffix: Secret<String>,
    options: super::Options,
    reply: super::ReplyForm,
) -> EditorRequest {
    let prompt = prompt.unwrap_or_else(|| Secret::new(String::new()));
    EditorRequest { task: Task::Hole(Hole::new(prompt, suffix)), options, reply }
}

fn context(extra: Extra) -> Option<ContextFile> {
    let text = extra.text.filter(|text| !text.expose().is_empty())?;
    Some(ContextFile { path: extra.filename.unwrap_or_else(|| Secret::new(String::new())), text })
}
