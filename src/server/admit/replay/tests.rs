//! Clocks that jump, step, stand still and come back, against the set of seen tokens.

use std::collections::HashSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use proptest::prelude::*;

use super::*;
use crate::protocol::Dek;

const WINDOW: u64 = 300;
const HOUR: u64 = 3600;
const NOW: u64 = 1_760_000_000;

fn token() -> Token {
    Token::parse(Dek::generate().unwrap().seal(b"x").as_bytes()).unwrap()
}

fn token_of(timestamp: u64) -> Token {
    // The guard does not authenticate: that was done before.
    let mut bytes = BASE64_URL_SAFE.decode(Dek::generate().unwrap().seal(b"x")).unwrap();
    bytes[1..9].copy_from_slice(&timestamp.to_be_bytes());
    Token::parse(BASE64_URL_SAFE.encode(bytes).as_bytes()).unwrap()
}

fn served(guard: &Arc<ReplayGuard>, token: &Token, now: u64) -> bool {
    guard.remember(token, now).is_ok()
}

#[test]
fn a_token_is_served_once() {
    let (guard, token) = (ReplayGuard::new(WINDOW, 8), token());
    let now = token.timestamp();
    let first = guard.remember(&token, now).unwrap();
    assert_eq!(guard.remember(&token, now).unwrap_err(), ReplayError::Seen);
    drop(first);
    assert_eq!(guard.remember(&token, now + 1).unwrap_err(), ReplayError::Seen);
}

#[test]
fn a_token_that_could_not_be_served_may_come_again() {
    let (guard, token) = (ReplayGuard::new(WINDOW, 8), token());
    guard.remember(&token, token.timestamp()).unwrap().release();
    assert!(served(&guard, &token, token.timestamp()));
}

#[test]
fn the_window_is_closed_on_both_sides() {
    let token = token();
    let sealed = token.timestamp();
    for (now, fresh) in [
        (sealed - WINDOW, true),
        (sealed - WINDOW - 1, false),
        (sealed + WINDOW, true),
        (sealed + WINDOW + 1, false),
    ] {
        let expected = (!fresh).then_some(ReplayError::NotFresh { sealed, now, window: WINDOW });
        assert_eq!(ReplayGuard::new(WINDOW, 8).remember(&token, now).err(), expected, "{now}");
    }
}

#[test]
fn a_full_set_refuses_until_entries_leave_the_window() {
    let guard = ReplayGuard::new(WINDOW, 1);
    let (first, second) = (token_of(NOW), token_of(NOW + 1));
    assert!(served(&guard, &first, NOW));
    assert_eq!(guard.remember(&second, NOW).unwrap_err(), ReplayError::Full);
    assert_eq!(guard.len(NOW), 1);
    assert_eq!(guard.len(NOW + WINDOW + 1), 0);
    assert!(served(&guard, &second, NOW + WINDOW + 1));
    // What was forgotten still counts as seen, should the clock step back.
    assert_eq!(guard.remember(&first, NOW).unwrap_err(), ReplayError::Seen);
}

#[test]
fn clocks_that_were_an_hour_ahead_leave_nothing_behind() {
    let guard = ReplayGuard::new(WINDOW, 8);
    let ahead = token_of(NOW + HOUR);
    assert!(served(&guard, &ahead, NOW + HOUR));
    // The clocks are right again: what is sealed now is served, at once and at any time of the next hours.
    for later in (0..3 * HOUR).step_by(60) {
        assert!(served(&guard, &token_of(NOW + later), NOW + later), "{later}");
        if later.abs_diff(HOUR) <= WINDOW {
            assert_eq!(guard.remember(&ahead, NOW + later).unwrap_err(), ReplayError::Seen);
        }
    }
}

#[test]
fn clocks_that_were_ahead_for_hours_do_not_shut_others_out() {
    // Full of what was served while the clock was ahead, and much of it forgotten already.
    let guard = ReplayGuard::new(WINDOW, 20);
    let mut ahead = Vec::new();
    for later in (0..HOUR / 2).step_by(60) {
        let token = token_of(NOW + later + HOUR);
        assert!(served(&guard, &token, NOW + later + HOUR));
        ahead.push(token);
    }
    let now = NOW + HOUR / 2;
    for _ in 0..20 {
        assert!(served(&guard, &token_of(now), now));
    }
    assert_eq!(guard.remember(&token_of(now), now).unwrap_err(), ReplayError::Full);
    for token in &ahead {
        assert_eq!(guard.remember(token, token.timestamp()).unwrap_err(), ReplayError::Seen);
    }
}

#[test]
fn a_clock_that_was_an_hour_behind_reopens_nothing() {
    let guard = ReplayGuard::new(WINDOW, 2);
    let before: Vec<Token> = (0..2).map(|_| token_of(NOW - HOUR)).collect();
    assert!(before.iter().all(|token| served(&guard, token, NOW - HOUR)));
    assert!(served(&guard, &token_of(NOW), NOW) && served(&guard, &token_of(NOW), NOW));
    for token in &before {
        assert_eq!(guard.remember(token, NOW - HOUR).unwrap_err(), ReplayError::Seen);
    }
}

#[test]
fn ranges_of_forgotten_timestamps_are_bounded_and_forget_nothing() {
    let mut forgotten = Forgotten::default();
    let timestamps: Vec<u64> = (0..200).map(|index| index * 7919 * WINDOW % 1_000_003).collect();
    for (count, &timestamp) in timestamps.iter().enumerate() {
        forgotten.add(timestamp, WINDOW);
        assert!(forgotten.0.len() <= MAX_RANGES);
        assert!(timestamps.iter().take(count + 1).all(|&timestamp| forgotten.may_hold(timestamp)));
    }
}

/// What happens to a server: its clock goes on or jumps, and a token comes, a new one or one that was sent before.
#[derive(Clone, Debug)]
enum Happening {
    Clock(i64),
    New { offset: i64, given_up: bool },
    Again(prop::sample::Index),
}

fn happening() -> impl Strategy<Value = Happening> {
    let hour = HOUR.cast_signed();
    let jump =
        prop_oneof![0..30_i64, -5..5_i64, prop::sample::select(vec![hour, -hour, 400, -400, 30 * hour])];
    prop_oneof![
        jump.prop_map(Happening::Clock),
        (-310..310_i64, prop::bool::weighted(0.1))
            .prop_map(|(offset, given_up)| Happening::New { offset, given_up }),
        any::<prop::sample::Index>().prop_map(Happening::Again),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_the_clock_does_nothing_is_served_twice_and_nothing_new_is_refused_for_want_of_a_clock(
        happenings in prop::collection::vec(happening(), 1..120),
        capacity in prop::sample::select(vec![1_usize, 3, 10, 1000]),
    ) {
        let (mut seen, mut now) = (Seen::default(), NOW);
        let (mut sent, mut taken) = (Vec::<Entry>::new(), HashSet::new());
        for happening in happenings {
            let (entry, given_up) = match happening {
                Happening::Clock(step) => {
                    now = now.saturating_add_signed(step);
                    continue;
                }
                Happening::New { offset, given_up } => {
                    let mut digest = [0; 32];
                    digest[..8].copy_from_slice(&(sent.len() as u64).to_be_bytes());
                    sent.push((now.saturating_add_signed(offset), digest));
                    (sent[sent.len() - 1], given_up)
                }
                Happening::Again(_) if sent.is_empty() => continue,
                Happening::Again(index) => (*index.get(&sent), false),
            };
            // The guard's first question.
            if entry.0.abs_diff(now) > WINDOW {
                continue;
            }
            let outcome = seen.admit(entry, now, WINDOW, capacity);
            prop_assert!(seen.entries.len() <= capacity && seen.forgotten.0.len() <= MAX_RANGES);
            if outcome.is_ok() {
                prop_assert!(!taken.contains(&entry), "served twice");
                if given_up {
                    seen.entries.remove(&entry);
                } else {
                    taken.insert(entry);
                }
            } else if capacity == 1000 {
                prop_assert!(taken.contains(&entry), "new, fresh and refused: {outcome:?}");
            }
        }
    }
}
