//! `/v1/chat/completions`: conversations, and the holes that some clients send there.

use super::body::{Body, Content, Message};
use super::{BadBody, EditorRequest, Options, ReplyForm, Task, Turn, markers, openai};
use crate::protocol::openai::Role;
use crate::secret::Secret;

/// `prompt` on this path is a completion; markers in the last message are a hole; else it is a conversation.
pub(super) fn openai(mut body: Body) -> Result<EditorRequest, BadBody> {
    let options = body.options();
    let reply = body.reply(false);
    task(&mut body, options, reply)
}

/// The same with options read already.
pub(super) fn task(body: &mut Body, options: Options, reply: ReplyForm) -> Result<EditorRequest, BadBody> {
    let messages = body.messages.take().map(|messages| messages.0).unwrap_or_default();
    if messages.is_empty() {
        if body
            .prompt()
            .map(|prompt| prompt.map(|prompt| body.prompt = super::lax::Prompt::One(prompt)))?
            .is_none()
            && body.suffix.is_none()
        {
            return Err(BadBody::Missing("messages"));
        }
        return Ok(EditorRequest { task: openai::text_or_hole(body)?, options, reply });
    }
    let turns = turns(messages)?;
    let last = turns.last().filter(|turn| turn.role == Role::User).ok_or(BadBody::NoUser)?;
    let task = match markers::hole(last.content.expose()) {
        Some(hole) => Task::Hole(hole),
        None => Task::Chat(turns),
    };
    Ok(EditorRequest { task, options, reply })
}

/// The messages as the server takes them: one system message in front, then user and assistant in turn.
fn turns(messages: Vec<Message>) -> Result<Vec<Turn>, BadBody> {
    let mut turns: Vec<Turn> = Vec::with_capacity(messages.len());
    for message in messages {
        let role = match message.role.0.as_deref() {
            Some("assistant") => Role::Assistant,
            Some("system" | "developer") => Role::System,
            // The model has no role for tools: their messages become the user's.
            _ => Role::User,
        };
        let content = text(message.content)?;
        if content.expose().is_empty() && role != Role::User {
            continue;
        }
        let same = match (role, turns.first()) {
            (Role::System, Some(first)) if first.role == Role::System => turns.first_mut(),
            (Role::System, _) => {
                turns.insert(0, Turn { role, content });
                continue;
            }
            _ => turns.last_mut().filter(|last| last.role == role),
        };
        match same {
            Some(turn) => {
                let joined = [turn.content.expose().as_str(), content.expose()].join("\n\n");
                turn.content = Secret::new(joined);
            }
            None => turns.push(Turn { role, content }),
        }
    }
    Ok(turns)
}

fn text(content: Content) -> Result<Secret<String>, BadBody> {
    match content {
        Content::Text(text) => Ok(text),
        Content::Nothing => Ok(Secret::new(String::new())),
        Content::Parts(parts) => {
            let mut texts = Secret::new(String::new());
            for part in parts {
                texts.expose_mut().push_str(part.text.ok_or(BadBody::NotText)?.expose());
            }
            Ok(texts)
        }
    }
}
