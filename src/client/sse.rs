//! Server-sent events, as far as this protocol uses them: `data:` lines, blank lines, comments.

use super::error::NotAuthentic;

/// The longest line that is taken, in bytes: a frame's token has about 1500.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Cuts a byte stream, however it is chunked, into the data of its events.
#[derive(Debug, Default)]
pub(super) struct SseReader {
    line: Vec<u8>,
    data: Option<String>,
}

impl SseReader {
    /// Takes the next chunk; the data of the events that it completes.
    ///
    /// # Errors
    /// A line that is too long, or not text.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Vec<String>, NotAuthentic> {
        let mut events = Vec::new();
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            if self.line.len() + piece.len() > MAX_LINE_BYTES {
                return Err(NotAuthentic::TooLong);
            }
            self.line.extend_from_slice(piece);
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                events.extend(self.take_line(&line)?);
            }
        }
        Ok(events)
    }

    /// Takes one whole line; the data of the event that it ends, if it does.
    fn take_line(&mut self, line: &[u8]) -> Result<Option<String>, NotAuthentic> {
        let line = std::str::from_utf8(line).map_err(|_| NotAuthentic::Malformed)?;
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return Ok(self.data.take());
        }
        if let Some(value) = line.strip_prefix("data:") {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                // A token is one line; several would only grow.
                Some(_) => return Err(NotAuthentic::Malformed),
                None => self.data = Some(value.to_owned()),
            }
        }
        // Comments, which keep the connection alive, and fields that this protocol does not use.
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_do_not_depend_on_how_the_bytes_are_cut() {
        let stream = b": hello\n\ndata: one\n\nevent: x\r\ndata:two\r\n\r\n: idle\n\ndata: three\n";
        for size in 1..=stream.len() {
            let mut reader = SseReader::default();
            let events: Vec<String> =
                stream.chunks(size).flat_map(|chunk| reader.push(chunk).unwrap()).collect();
            // The third is never ended by a blank line, so it is none.
            assert_eq!(events, ["one", "two"], "{size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut reader = SseReader::default();
        let refused = (0..MAX_LINE_BYTES).find_map(|_| reader.push(b"xx").err());
        assert_eq!(refused, Some(NotAuthentic::TooLong));
    }

    #[test]
    fn data_of_several_lines_is_none_of_this_protocol() {
        assert_eq!(SseReader::default().push(b"data: a\ndata: b\n\n"), Err(NotAuthentic::Malformed));
        assert_eq!(SseReader::default().push(b"data: \xff\n\n"), Err(NotAuthentic::Malformed));
    }
}
