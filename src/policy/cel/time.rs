//! Timestamps and durations: text forms as Abseil parses them, calendar fields, ranges.

use std::fmt;

use super::stop::Stop;
use super::{Reason, Undecided};

const NANOS: i128 = 1_000_000_000;
/// 0001-01-01T00:00:00Z.
const FIRST_SECOND: i128 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const LAST_SECOND: i128 = 253_402_300_799;
/// Ten thousand years.
const LONGEST_SECONDS: i128 = 315_576_000_000;

/// Nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::policy) struct Timestamp(i128);

/// Nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::policy) struct Duration(i128);

/// A date and a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    /// From one.
    pub(super) month: i64,
    /// From one.
    pub(super) day: i64,
    /// From zero.
    pub(super) day_of_year: i64,
    /// Sunday is zero.
    pub(super) weekday: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
    pub(super) millisecond: i64,
}

fn out_of_range() -> Stop {
    Stop::error("the time is out of range")
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

impl Timestamp {
    fn checked(nanos: i128) -> Result<Self, Stop> {
        let within = (FIRST_SECOND * NANOS..(LAST_SECOND + 1) * NANOS).contains(&nanos);
        within.then_some(Self(nanos)).ok_or_else(out_of_range)
    }

    pub(super) fn from_seconds(seconds: i64) -> Result<Self, Stop> {
        Self::checked(i128::from(seconds) * NANOS)
    }

    pub(super) fn seconds(self) -> i64 {
        i64::try_from(self.0.div_euclid(NANOS)).unwrap_or_default()
    }

    pub(super) fn plus(self, duration: Duration) -> Result<Self, Stop> {
        Self::checked(self.0 + duration.0)
    }

    pub(super) fn since(self, other: Self) -> Result<Duration, Stop> {
        Duration::checked(self.0 - other.0)
    }

    /// The fields of the calendar, `offset` seconds east of Greenwich.
    pub(super) fn civil(self, offset: i64) -> Civil {
        let seconds = self.seconds() + offset;
        let day_number = seconds.div_euclid(86_400);
        let of_day = seconds.rem_euclid(86_400);
        let (year, month, day) = date(day_number);
        Civil {
            year,
            month,
            day,
            day_of_year: day_number - days(year, 1, 1),
            weekday: (day_number + 4).rem_euclid(7),
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            millisecond: i64::try_from(self.0.rem_euclid(NANOS) / 1_000_000).unwrap_or_default(),
        }
    }

    /// RFC 3339, as leniently as the engine: single digits, blanks around it, `+0200`, a leap second.
    pub(super) fn parse(text: &str) -> Result<Self, Stop> {
        let malformed = || Stop::error("the text is no timestamp such as 2025-01-31T12:00:00Z");
        let trimmed = text.trim_matches(|c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r'));
        if matches!(trimmed, "infinite-future" | "infinite-past") {
            return Err(out_of_range());
        }
        let mut reader = Reader(trimmed);
        let parsed = reader.timestamp().filter(|_| reader.0.is_empty());
        let (year, rest_nanos) = parsed.ok_or_else(malformed)?;
        if !(-1_000_000..1_000_000).contains(&year) {
            return Err(out_of_range());
        }
        Self::checked(rest_nanos)
    }
}

/// Reads a text from its start.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    fn byte(&self) -> u8 {
        self.0.as_bytes().first().copied().unwrap_or(0)
    }

    fn take(&mut self, wanted: &str) -> Option<()> {
        let first = self.0.get(..1)?;
        if !wanted.contains(first) {
            return None;
        }
        self.0 = self.0.get(1..)?;
        Some(())
    }

    fn digits(&mut self, most: usize) -> &str {
        let length = self.0.bytes().take(most).take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at(length);
        self.0 = rest;
        digits
    }

    /// A number of at most `width` characters, its minus sign among them.
    fn number(&mut self, width: usize, from: i64, to: i64) -> Option<i64> {
        let negative = self.byte() == b'-';
        if negative {
            self.0 = self.0.get(1..)?;
        }
        let digits = self.digits(width.checked_sub(usize::from(negative)).filter(|&left| left > 0)?);
        let value: i64 = digits.parse().ok()?;
        let value = if negative { -value } else { value };
        (from..=to).contains(&value).then_some(value)
    }

    /// The year, and nanoseconds since 1970.
    fn timestamp(&mut self) -> Option<(i64, i128)> {
        let year = self.number(18, i64::MIN, i64::MAX)?;
        self.take("-")?;
        let month = self.number(2, 1, 12)?;
        self.take("-")?;
        let day = self.number(2, 1, 31)?;
        self.take("Tt")?;
        let hour = self.number(2, 0, 23)?;
        self.take(":")?;
        let minute = self.number(2, 0, 59)?;
        self.take(":")?;
        let second = self.number(2, 0, 60)?;
        let mut nanos: i128 = 0;
        if self.byte() == b'.' {
            self.take(".")?;
            let digits = self.digits(usize::MAX);
            let first_nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
            nanos = first_nine.parse().ok().filter(|_| !digits.is_empty())?;
        }
        let offset = self.offset()?;
        if !(-1_000_000..1_000_000).contains(&year) {
            return Some((year, 0));
        }
        let day_number = days(year, month, day);
        if date(day_number) != (year, month, day) {
            return None;
        }
        if second == 60 {
            nanos = 0;
        }
        let seconds = day_number * 86_400 + hour * 3600 + minute * 60 + second - offset;
        Some((year, i128::from(seconds) * NANOS + nanos))
    }

    /// `Z`, `+02:00`, `+0200`, `+02`, `+02:00:00`.
    fn offset(&mut self) -> Option<i64> {
        if self.take("Zz").is_some() {
            return Some(0);
        }
        let negative = self.byte() == b'-';
        self.take("+-")?;
        let hours = self.pair(23)?;
        let mut total = hours * 3600;
        for (unit, most) in [(60, 59), (1, 59)] {
            let before = self.0;
            let _separated = self.take(":");
            let Some(value) = self.pair(most) else {
                self.0 = before;
                break;
            };
            total += value * unit;
        }
        Some(if negative { -total } else { total })
    }

    fn pair(&mut self, most: i64) -> Option<i64> {
        let before = self.0;
        let digits = self.digits(2);
        let value =
            (digits.len() == 2).then(|| digits.parse::<i64>().ok()).flatten().filter(|value| *value <= most);
        if value.is_none() {
            self.0 = before;
        }
        value
    }
}

impl Duration {
    fn checked(nanos: i128) -> Result<Self, Stop> {
        (nanos.abs() < (LONGEST_SECONDS + 1) * NANOS).then_some(Self(nanos)).ok_or_else(out_of_range)
    }

    pub(super) fn negated(self) -> Self {
        Self(-self.0)
    }

    pub(super) fn plus(self, other: Self) -> Result<Self, Stop> {
        Self::checked(self.0 + other.0)
    }

    /// Whole units of `seconds` seconds.
    pub(super) fn whole(self, seconds: i64) -> i64 {
        i64::try_from(self.0 / (i128::from(seconds) * NANOS)).unwrap_or_default()
    }

    /// Milliseconds beyond whole seconds.
    pub(super) fn milliseconds(self) -> i64 {
        i64::try_from(self.0 % NANOS / 1_000_000).unwrap_or_default()
    }

    /// `1h30m`, `-1.5s`, `0`: h, m, s, ms, us and ns.
    pub(super) fn parse(text: &str) -> Result<Self, Stop> {
        let malformed = || Stop::error("the text is no duration such as 90s or 1h30m");
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        match unsigned {
            "0" => return Ok(Self(0)),
            "inf" => return Err(out_of_range()),
            "" => return Err(malformed()),
            _ => {}
        }
        let mut reader = Reader(unsigned);
        // In thousandths of nanoseconds.
        let mut total: i128 = 0;
        while !reader.0.is_empty() {
            let whole = reader.digits(usize::MAX).to_owned();
            let mut fraction = String::new();
            let pointed = reader.take(".").is_some();
            if pointed {
                reader.digits(usize::MAX).clone_into(&mut fraction);
            }
            if whole.is_empty() && fraction.is_empty() {
                return Err(malformed());
            }
            let units = [
                ("ns", 1),
                ("us", 1000),
                ("ms", 1_000_000),
                ("h", 3600 * NANOS),
                ("m", 60 * NANOS),
                ("s", NANOS),
            ];
            let unit = units.into_iter().find(|(name, _)| reader.0.starts_with(name));
            let (name, nanos) = unit.ok_or_else(malformed)?;
            reader.0 = reader.0.get(name.len()..).unwrap_or_default();
            if fraction.len() > 9 || (fraction.len() > 3 && nanos < NANOS) {
                return Err(Stop::Undecided(Undecided::new(
                    Reason::DurationText,
                    "a duration with parts of nanoseconds is rounded by the engine: give fewer decimals",
                )));
            }
            let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| malformed())? };
            if whole > i128::from(i64::MAX) {
                return Err(malformed());
            }
            let scale = 10i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
            let fraction: i128 =
                if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| malformed())? };
            total += whole * nanos * 1000 + fraction * nanos * 1000 / scale;
        }
        let nanos = total / 1000;
        Self::checked(if negative { -nanos } else { nanos })
    }
}

/// Nanoseconds as a fraction of 0, 3, 6 or 9 digits.
fn fraction(nanos: i128) -> String {
    match nanos {
        0 => String::new(),
        nanos if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
        nanos if nanos % 1000 == 0 => format!(".{:06}", nanos / 1000),
        nanos => format!(".{nanos:09}"),
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second, .. } = self.civil(0);
        let fraction = fraction(self.0.rem_euclid(NANOS));
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}{}s", self.0.abs() / NANOS, fraction(self.0.abs() % NANOS))
    }
}
