//! "Did you mean": the nearest of some names.

/// The name in `known` that `name` was probably meant to be: at most a third of its letters differ, two at most.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (name.chars().count() / 3).clamp(1, 2);
    let near = known.into_iter().filter_map(|candidate| {
        let distance = distance(name, candidate);
        (candidate != name && distance <= bound).then_some((distance, candidate))
    });
    near.min_by_key(|&(distance, _)| distance).map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbors between two names; case counts as nothing.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    if a.len().abs_diff(b.len()) > 2 || a.len() > 64 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX - 1);
            let previous = rows.last().map_or(&[][..], Vec::as_slice);
            let mut best =
                (at(previous, j) + usize::from(x != y)).min(at(previous, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if let Some(before) =
                rows.len().checked_sub(2).and_then(|index| rows.get(index)).filter(|_| swapped)
            {
                best = best.min(at(before, j - 1) + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_keyboard_is_recognized() {
        let known = ["assertion", "attribute", "startsWith", "secboot"];
        for (typed, meant) in [
            ("asserton", "assertion"),
            ("Assertion", "assertion"),
            ("assertoin", "assertion"),
            ("startswith", "startsWith"),
            ("secbot", "secboot"),
        ] {
            assert_eq!(nearest(typed, known), Some(meant), "{typed}");
        }
        assert_eq!(nearest("hwmodel", known), None);
        assert_eq!(nearest("x", known), None);
    }
}
