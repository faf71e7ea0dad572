//! What a key costs: tokens of the prompt that the server computes while lines are typed.

use codeseal::protocol::HoleStart;
use serde_json::{Value, json};

use super::Desk;

const TYPED: &str = "    total = 0\n    for item in basket:\n        if item.count > 0:\n            \
    total += item.price * item.count\n    return total\n";

fn file(lines: std::ops::Range<usize>) -> String {
    lines.map(|line| format!("    value_{line} = compute(value_{}, {line})\n", line / 2)).collect()
}

/// Tokens computed for each second key of `TYPED`, by a client that sends `window` of the text before the cursor.
async fn computed(layout: HoleStart, window: impl Fn(&str) -> String) -> Vec<u64> {
    let desk = Desk::with(|config| config.layout = layout).await;
    let (above, below) = (file(0..100), file(100..120));
    let mut tokens = Vec::new();
    for end in (0..TYPED.len()).step_by(2) {
        let before = format!("{above}{}", TYPED.get(..end).unwrap());
        let body = json!({ "input_prefix": window(&before), "input_suffix": below, "n_predict": 1 });
        let answer: Value = serde_json::from_str(&desk.post("/infill", &body).await.text).unwrap();
        tokens.push(answer["timings"]["prompt_n"].as_u64().unwrap());
    }
    tokens
}

fn mean(tokens: &[u64]) -> u64 {
    tokens.iter().sum::<u64>() / tokens.len() as u64
}

#[tokio::test]
async fn a_key_costs_tens_of_tokens_with_a_hole_above_the_cursor() {
    let keys = |tokens: Vec<u64>| (tokens[0], mean(&tokens[1..]), *tokens[1..].iter().max().unwrap());
    let (first, lines, most) = keys(computed(HoleStart::Lines, str::to_owned).await);
    assert!(first > 600, "the first request reads everything: {first}");
    assert!(lines <= 20 && most <= 40, "{lines}, at most {most}");
    let (_, line, most) = keys(computed(HoleStart::Line, str::to_owned).await);
    assert!(line <= 60 && most > 100, "a new line has the suffix read again: {line}, at most {most}");
    let (_, cursor, _) = keys(computed(HoleStart::Cursor, str::to_owned).await);
    assert!(cursor > 3 * line, "a hole at the cursor has the suffix read for each key: {cursor}");
}

/// As clients that send a fixed number of characters before the cursor.
#[tokio::test]
async fn a_window_that_moves_with_each_key_is_read_twice_and_no_more() {
    let last = |before: &str| before.get(before.len() - 2500..).unwrap().to_owned();
    let tokens = computed(HoleStart::Lines, last).await;
    let expensive = tokens.iter().filter(|&&tokens| tokens > 100).count();
    assert!(expensive <= 2 && mean(&tokens[2..]) <= 20, "{tokens:?}");
}
