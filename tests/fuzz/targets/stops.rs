//! The stop matcher against a naive search of the whole text, for any stops and any cut into pieces.
#![no_main]

use codeseal::prompt::Stops;
use codeseal::secret::Secret;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<String>, Vec<String>)| {
    let (stops, pieces) = input;
    let Ok(checked) = Stops::new(stops.iter().cloned().map(Secret::new).collect()) else { return };
    let mut matcher = checked.matcher();
    let (mut shown, mut stopped) = (String::new(), false);
    for piece in &pieces {
        let piece = matcher.push(piece);
        shown.push_str(piece.text.expose());
        stopped = piece.stopped;
    }
    shown.push_str(matcher.finish().expose());
    assert_eq!((shown, stopped), naive(&stops, &pieces.concat()));
});

/// The shortest start of the text that ends with a stop, without the longest such stop.
fn naive(stops: &[String], text: &str) -> (String, bool) {
    for end in 1..=text.len() {
        let start = &text.as_bytes()[..end];
        let longest = stops.iter().filter(|stop| start.ends_with(stop.as_bytes())).map(String::len).max();
        if let Some(longest) = longest {
            return (text[..end - longest].to_owned(), true);
        }
    }
    (text.to_owned(), false)
}
