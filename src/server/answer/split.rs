//! Cuts a text so that each piece fits a bound once it is written as a JSON string.
//!
//! Pure.

/// The pieces of `text`, cut between characters, each at most `limit` bytes between its quotation marks.
///
/// A single character that is longer than `limit` is a piece of its own. An empty text has no pieces.
pub(crate) fn json_pieces(text: &str, limit: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut room = limit;
        let mut end = 0;
        for (at, character) in rest.char_indices() {
            match room.checked_sub(json_len(character)) {
                Some(left) => room = left,
                None if at > 0 => break,
                None => room = 0,
            }
            end = at + character.len_utf8();
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// How long serde_json writes it.
fn json_len(character: char) -> usize {
    match character {
        '"' | '\\' | '\u{8}' | '\u{c}' | '\n' | '\r' | '\t' => 2,
        '\0'..='\u{1f}' => 6,
        _ => character.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_length_is_what_serde_writes() {
        for character in (0..=0x2fff).filter_map(char::from_u32).chain(['🦀']) {
            let written = serde_json::to_string(&character).unwrap();
            assert_eq!(json_len(character), written.len() - 2, "{character:?}");
        }
    }

    #[test]
    fn an_empty_text_has_no_pieces() {
        assert_eq!(json_pieces("", 8).count(), 0);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_every_piece_fits(text in any::<String>(), limit in 6usize..64) {
            let pieces: Vec<&str> = json_pieces(&text, limit).collect();
            prop_assert_eq!(pieces.concat(), text.as_str());
            for piece in pieces {
                prop_assert!(serde_json::to_string(piece).unwrap().len() - 2 <= limit);
            }
        }
    }
}
