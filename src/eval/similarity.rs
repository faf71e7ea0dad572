//! How alike two texts are: edit distance in characters.

/// 1 for equal texts, 0 for such that have nothing in common: 1 - distance / length of the longer one.
pub(super) fn similarity(a: &str, b: &str) -> f64 {
    let longer = a.chars().count().max(b.chars().count());
    if longer == 0 {
        return 1.0;
    }
    1.0 - distance(a, b) as f64 / longer as f64
}

/// Levenshtein's: how many characters must be added, removed or replaced to turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // The distances between what was read of `a` and each beginning of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (read, from) in a.chars().enumerate() {
        let mut diagonal = read;
        let mut left = read + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(left);
        for (&above, &to) in row.iter().skip(1).zip(&b) {
            left = (diagonal + usize::from(from != to)).min(above + 1).min(left + 1);
            diagonal = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few letters, so that texts have something in common; one that is longer in bytes than in characters.
    const TEXT: &str = "[ab\n한]{0,12}";

    #[test]
    fn distances_by_hand() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("return a + b", "return a - b", 1),
            ("ab", "ba", 2),
            ("한글", "한국", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn similarities_by_hand() {
        for (a, b, expected) in [
            ("", "", 1.0),
            ("", "x", 0.0),
            ("abcd", "abcd", 1.0),
            ("abcd", "wxyz", 0.0),
            ("abcd", "abcx", 0.75),
            ("ab", "abcd", 0.5),
            ("한글", "한국", 0.5),
        ] {
            assert_eq!(similarity(a, b), expected, "{a:?} {b:?}");
        }
    }

    proptest! {
        #[test]
        fn distance_is_a_metric(a in TEXT, b in TEXT, c in TEXT) {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
        }

        #[test]
        fn similarity_is_symmetric_and_a_share(a in TEXT, b in TEXT) {
            let alike = similarity(&a, &b);
            prop_assert_eq!(alike, similarity(&b, &a));
            prop_assert!((0.0..=1.0).contains(&alike));
            prop_assert_eq!(alike == 1.0, a == b);
        }
    }
}
