//! Ollama's `/api/generate` and `/api/chat`. Absent, `stream` means true there.

use super::body::Body;
use super::{BadBody, EditorRequest, Task, chat, openai};
use crate::secret::Secret;

/// A prompt with or without a suffix, raw or not; without a prompt, a call that loads the model.
pub(super) fn generate(mut body: Body) -> Result<EditorRequest, BadBody> {
    body.suffix = body.suffix.or_else(|| body.options.as_mut()?.suffix.take());
    let options = body.options();
    let reply = body.reply(true);
    let system = body.system.take().filter(|system| !system.expose().is_empty());
    let has_suffix = body.suffix.as_ref().is_some_and(|suffix| !suffix.expose().is_empty());
    let task = match body.prompt()? {
        None if !has_suffix => Task::Nothing,
        Some(prompt) if prompt.expose().is_empty() && !has_suffix => Task::Nothing,
        prompt => {
            body.prompt = prompt.map_or_else(Default::default, super::lax::Prompt::One);
            openai::text_or_hole(&mut body)?
        }
    };
    let task = match (task, system) {
        (Task::Text(prompt), Some(system)) => {
            Task::Text(Secret::new(format!("{}\n\n{}", system.expose(), prompt.expose())))
        }
        (task, _) => task,
    };
    Ok(EditorRequest { task, options, reply })
}

/// A conversation.
pub(super) fn chat(mut body: Body) -> Result<EditorRequest, BadBody> {
    let options = body.options();
    let reply = body.reply(true);
    if body.messages.as_ref().is_none_or(|messages| messages.0.is_empty()) {
        return Ok(EditorRequest { task: Task::Nothing, options, reply });
    }
    chat::task(&mut body, options, reply)
}
