//! Attribute conditions: parsed or refused, printed to the same tree, decided within the bounds, never a panic.
#![no_main]

use codeseal::policy::{Condition, Verdict};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (String, Vec<u8>)| {
    let (text, claims) = input;
    let Ok(condition) = Condition::parse(&text) else { return };
    let printed = condition.printed();
    let again = Condition::parse(&printed).expect("what was printed parses");
    assert_eq!(again.printed(), printed);
    let claims = serde_json::from_slice(&claims).unwrap_or_else(|_| serde_json::json!({"a": 1, "s": "x", "l": [1, "a"]}));
    let decision = condition.decide(&claims);
    assert_eq!(again.decide(&claims).verdict, decision.verdict);
    assert_eq!(condition.check(&claims).is_ok(), decision.verdict == Verdict::True);
});
