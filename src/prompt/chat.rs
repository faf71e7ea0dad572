//! Gemma's turns, as the instruction-tuned CodeGemma models were trained on them.

use zeroize::Zeroizing;

use super::PromptError;
use super::control::{BOS, END_OF_TURN, START_OF_TURN};
use crate::protocol::openai::{Message, Role};
use crate::token::TokenId;

/// Why a conversation cannot become a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError<E> {
    /// The text could not be encoded.
    #[error(transparent)]
    Encode(E),
    /// The messages are no conversation.
    #[error(transparent)]
    Prompt(PromptError),
}

/// `<bos>`, then `<start_of_turn>user\n…<end_of_turn>\n` for each message, then `<start_of_turn>model\n`.
///
/// Gemma knows no system role, so system texts stand in front of the first message of the user.
///
/// # Errors
/// [`PromptError::Roles`] if user and assistant do not alternate, beginning and ending with the user, or a system
/// text comes after the first message; and those of `encode`.
pub fn chat<E>(
    encode: impl Fn(&str) -> Result<Vec<TokenId>, E>,
    messages: &[Message],
) -> Result<Vec<TokenId>, ChatError<E>> {
    let turns = messages.iter().take_while(|message| message.role == Role::System).count();
    let (system, turns) = messages.split_at(turns);
    check_roles(turns).map_err(ChatError::Prompt)?;

    let encode = |text: &str| encode(text).map_err(ChatError::Encode);
    let newline = encode("\n")?;
    let mut ids = vec![BOS];
    for (index, message) in turns.iter().enumerate() {
        let before = if index == 0 { system } else { &[] };
        ids.push(START_OF_TURN);
        ids.extend(encode(&turn(before, message))?);
        ids.push(END_OF_TURN);
        ids.extend(&newline);
    }
    ids.push(START_OF_TURN);
    ids.extend(encode("model\n")?);
    Ok(ids)
}

fn check_roles(turns: &[Message]) -> Result<(), PromptError> {
    let alternates = turns
        .iter()
        .enumerate()
        .all(|(index, message)| message.role == if index % 2 == 0 { Role::User } else { Role::Assistant });
    // An odd count is one that ends with the user.
    if alternates && turns.len() % 2 == 1 { Ok(()) } else { Err(PromptError::Roles) }
}

/// What stands between two markers. The role and the text are one piece, as in training: a newline may merge with
/// what follows it. The template trims each text.
fn turn(system: &[Message], message: &Message) -> Zeroizing<String> {
    let role = if message.role == Role::Assistant { "model\n" } else { "user\n" };
    let texts = || system.iter().chain([message]).map(|message| message.content.expose().trim());
    // The final capacity at once: growing would leave unwiped copies behind.
    let mut turn =
        Zeroizing::new(String::with_capacity(role.len() + texts().map(|text| text.len() + 2).sum::<usize>()));
    turn.push_str(role);
    for (index, text) in texts().enumerate() {
        if index > 0 {
            turn.push_str("\n\n");
        }
        turn.push_str(text);
    }
    turn
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;

    use super::*;
    use crate::secret::Secret;

    /// Renders the ids as Gemma's template would look, by handing out one id per encoded piece.
    fn render(messages: &[(Role, &str)]) -> Result<String, ChatError<Infallible>> {
        let messages: Vec<_> = messages
            .iter()
            .map(|&(role, text)| Message { role, content: Secret::new(text.to_owned()) })
            .collect();
        let pieces = RefCell::new(Vec::new());
        let encode = |text: &str| {
            pieces.borrow_mut().push(text.to_owned());
            Ok(vec![TokenId(999 + u32::try_from(pieces.borrow().len()).unwrap())])
        };
        let ids = chat(encode, &messages)?;
        let text = |id: TokenId| match id {
            BOS => "<bos>".to_owned(),
            START_OF_TURN => "<start_of_turn>".to_owned(),
            END_OF_TURN => "<end_of_turn>".to_owned(),
            TokenId(piece) => pieces.borrow()[piece as usize - 1000].clone(),
        };
        Ok(ids.into_iter().map(text).collect())
    }

    #[test]
    fn one_question_is_the_form_that_the_model_card_shows() {
        assert_eq!(
            render(&[(Role::User, " Write hello world.\n")]).unwrap(),
            "<bos><start_of_turn>user\nWrite hello world.<end_of_turn>\n<start_of_turn>model\n"
        );
    }

    #[test]
    fn a_conversation_keeps_its_turns_and_the_system_text_comes_first() {
        let messages = [
            (Role::System, "Be brief."),
            (Role::System, "Rust only."),
            (Role::User, "a"),
            (Role::Assistant, "b"),
            (Role::User, "c"),
        ];
        assert_eq!(
            render(&messages).unwrap(),
            "<bos><start_of_turn>user\nBe brief.\n\nRust only.\n\na<end_of_turn>\n\
             <start_of_turn>model\nb<end_of_turn>\n<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n"
        );
    }

    #[test]
    fn roles_that_do_not_alternate_are_refused() {
        use Role::{Assistant, System, User};
        let wrong: [&[Role]; 7] = [
            &[],
            &[System],
            &[Assistant],
            &[User, User],
            &[User, Assistant],
            &[User, Assistant, System, User],
            &[Assistant, User],
        ];
        for roles in wrong {
            let messages: Vec<_> = roles.iter().map(|&role| (role, "x")).collect();
            assert_eq!(render(&messages), Err(ChatError::Prompt(PromptError::Roles)), "{roles:?}");
        }
    }
}
