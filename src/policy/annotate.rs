//! Findings as GitHub's workflow commands: `::error file=…,line=…,col=…::message`.

use super::rejected::Position;

/// The levels that GitHub has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// The check fails.
    Error,
    /// It does not, but needs a look.
    Warning,
    /// For the reader.
    Notice,
}

/// One annotation, as a line.
pub(super) fn annotation(
    severity: Severity,
    file: &str,
    place: Position,
    title: &str,
    message: &str,
) -> String {
    let level = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
    };
    format!(
        "::{level} file={},line={},col={},title={}::{}",
        property(file),
        place.line,
        place.column,
        property(title),
        data(message)
    )
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_end_its_annotation() {
        let place = Position { line: 2, column: 3 };
        let line = annotation(Severity::Error, "a:b,c\n.cel", place, "x", "50%\n::error::y");
        assert_eq!(line, "::error file=a%3Ab%2Cc%0A.cel,line=2,col=3,title=x::50%25%0A::error::y");
    }
}
