//! `/v1/completions` in OpenAI's, Tabby's and llama.cpp's form, and `/v1/fim/completions`.

use super::body::{Body, Segments, Snippet};
use super::lax::List;
use super::{BadBody, ContextFile, EditorRequest, Hole, Task, markers};
use crate::secret::Secret;

/// A completion: Tabby's if there are `segments`, a hole if there is a suffix or the prompt has markers, else text.
pub(super) fn completion(mut body: Body) -> Result<EditorRequest, BadBody> {
    let options = body.options();
    let reply = body.reply(false);
    let task = match body.segments.take() {
        Some(segments) => Task::Hole(tabby(segments)),
        None => text_or_hole(&mut body)?,
    };
    Ok(EditorRequest { task, options, reply })
}

/// llama.cpp's `/completion`, which may bring what `/infill` brings.
pub(super) fn llama_completion(body: Body) -> Result<EditorRequest, BadBody> {
    if body.input_prefix.is_some() || body.input_suffix.is_some() {
        return super::infill::infill(body);
    }
    completion(body)
}

/// Mistral's: always a hole.
pub(super) fn fim(mut body: Body) -> Result<EditorRequest, BadBody> {
    let options = body.options();
    let reply = body.reply(false);
    let task = match text_or_hole(&mut body)? {
        Task::Text(prefix) => Task::Hole(Hole::new(prefix, Secret::new(String::new()))),
        task => task,
    };
    Ok(EditorRequest { task, options, reply })
}

/// What `prompt` and `suffix` ask for.
pub(super) fn text_or_hole(body: &mut Body) -> Result<Task, BadBody> {
    let suffix = body.suffix.take();
    let prompt = match (body.prompt()?, &suffix) {
        (Some(prompt), _) => prompt,
        (None, Some(_)) => Secret::new(String::new()),
        (None, None) => return Err(BadBody::Missing("prompt")),
    };
    if let Some(hole) = markers::hole(prompt.expose()) {
        return Ok(Task::Hole(hole));
    }
    Ok(match suffix {
        Some(suffix) if !suffix.expose().is_empty() => Task::Hole(Hole::new(prompt, suffix)),
        _ => Task::Text(prompt),
    })
}

fn tabby(segments: Segments) -> Hole {
    let empty = || Secret::new(String::new());
    let mut hole = Hole::new(segments.prefix.unwrap_or_else(empty), segments.suffix.unwrap_or_else(empty));
    hole.path = segments.filepath;
    let lists = [
        segments.declarations,
        segments.relevant_snippets_from_recently_opened_files,
        segments.relevant_snippets_from_changed_files,
    ];
    hole.context = lists.into_iter().flat_map(|List(list)| list).filter_map(context).collect();
    hole
}

fn context(snippet: Snippet) -> Option<ContextFile> {
    let text = snippet.body.filter(|body| !body.expose().is_empty())?;
    Some(ContextFile { path: snippet.filepath.unwrap_or_else(|| Secret::new(String::new())), text })
}
