//! `--show-sealed`: prints the sealed requests and answers, worded as the codelab's client does.

use std::io::Write;

use super::printable::escaped;

/// Something that went over the wire: exactly what an operator can see of it.
#[derive(Clone, Copy, Debug)]
pub enum Wire<'a> {
    /// The body of a request.
    Sent(&'a [u8]),
    /// The body of an answer, or one event of a stream.
    Received(&'a [u8]),
}

/// A callback for everything that goes over the wire.
pub type WireTap<'a> = dyn FnMut(Wire<'_>) + 'a;

/// Prints `event` to `out`, one line each.
pub fn show_sealed(out: &mut dyn Write, event: Wire<'_>) {
    let (what, bytes) = match event {
        Wire::Sent(bytes) => ("sending encrypted payload: ", bytes),
        Wire::Received(bytes) => ("received encrypted response: ", bytes),
    };
    // The answer is not checked yet: it may hold what steers a terminal.
    let text = escaped(String::from_utf8_lossy(bytes).chars());
    // `out` may be closed: that does not fail the request.
    writeln!(out, "{what}{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_answer_cannot_steer_the_terminal() {
        let mut out = Vec::new();
        show_sealed(&mut out, Wire::Received(b"\x1b[2J\r\n{}\xff\xe2\x80\xae"));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "received encrypted response: \\u{1b}[2J\\r\\n{}\\u{fffd}\\u{202e}\n");
    }
}
