//! Line ends: the model sees `\n` only, so all texts of a request are given those.

use super::{EditorRequest, Hole, Task};
use crate::client::{LineEnds, to_lf};
use crate::secret::Secret;

impl EditorRequest {
    /// Gives all texts `\n` for `\r\n`; how the lines of the file end that the answer goes into.
    pub(in crate::proxy) fn unify_line_ends(&mut self) -> LineEnds {
        self.options.stop.iter_mut().for_each(unify);
        match &mut self.task {
            Task::Nothing => LineEnds::Lf,
            Task::Text(text) => {
                let ends = LineEnds::of(text.expose());
                unify(text);
                ends
            }
            Task::Hole(hole) => hole.unify_line_ends(),
            Task::Chat(turns) => {
                turns.iter_mut().for_each(|turn| unify(&mut turn.content));
                LineEnds::Lf
            }
        }
    }
}

impl Hole {
    fn unify_line_ends(&mut self) -> LineEnds {
        let parts = [self.prefix.expose().as_str(), self.middle.expose(), self.suffix.expose()];
        let ends = LineEnds::of(Secret::new(parts.concat()).expose());
        [&mut self.prefix, &mut self.middle, &mut self.suffix].into_iter().for_each(unify);
        self.context.iter_mut().for_each(|file| unify(&mut file.text));
        ends
    }
}

fn unify(text: &mut Secret<String>) {
    if text.expose().contains('\r') {
        *text = to_lf(text.expose());
    }
}
