//! The property of `Retry-After`, for any value. No wait is longer than the policy allows. For
//! seconds, fractions and the three forms of a date, the result is the same as that of a slow
//! reader. A fuzz target calls this function.

use std::time::{Duration, UNIX_EPOCH};

use arbitrary::{Arbitrary, Unstructured};
use tokenwire::{RetryPolicy, testing};

/// The wait of the policy. This wait is too odd to come from a header, so it shows that the header
/// was not read.
const OWN: Duration = Duration::from_nanos(123_456_789);

#[derive(Debug, Arbitrary)]
struct Input {
    now: u32,
    cap: u16,
    value: Value,
}

#[derive(Debug, Arbitrary)]
enum Value {
    Any(String),
    Seconds(u64),
    /// The last number is the number of digits after the point.
    Fraction(u32, u32, u8),
    Millis(u32),
    /// A time and the form of the date.
    Date(u64, u8),
}

pub(crate) fn retry_after(input: &[u8]) {
    let Ok(Input { now, cap, value }) = Input::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let now = UNIX_EPOCH + Duration::from_secs(now.into());
    let cap = Duration::from_secs(cap.into());
    let mut policy = RetryPolicy::default();
    (policy.min_wait, policy.max_wait, policy.max_server_wait) = (OWN, OWN, cap);
    let wait = |name: &str, value: &str| {
        let wait = testing::wait_of_an_overloaded_server(&policy, &[(name, value)], now);
        assert!(wait <= cap.max(OWN), "{value:?}: {wait:?} of {cap:?}");
        wait
    };
    match value {
        Value::Any(text) => {
            let found = wait("retry-after", &text);
            if let Some(expected) = slow_seconds(&text) {
                assert_near(found, expected.min(cap), &text);
            }
            wait("retry-after-ms", &text);
        }
        Value::Seconds(seconds) => {
            let text = seconds.to_string();
            assert_near(wait("retry-after", &text), Duration::from_secs(seconds).min(cap), &text);
        }
        Value::Fraction(whole, part, digits) => {
            let digits = usize::from(digits % 12) + 1;
            let text = format!(" {whole}.{part:0digits$} ");
            assert_near(wait("retry-after", &text), slow_seconds(&text).unwrap().min(cap), &text);
        }
        Value::Millis(millis) => {
            let text = millis.to_string();
            let expected = Duration::from_millis(millis.into()).min(cap);
            assert_near(wait("retry-after-ms", &text), expected, &text);
        }
        Value::Date(moment, form) => {
            // Here a year of two digits is 1970 to 2069. The standard defines it as the nearest
            // year within 50 years.
            let end = if form % 3 == 1 { 3_155_760_000 } else { 253_402_300_800 };
            let moment = moment % end;
            let text = date(moment, form % 3);
            let at = UNIX_EPOCH + Duration::from_secs(moment);
            let expected = at.duration_since(now).unwrap_or_default().min(cap);
            assert_eq!(wait("retry-after", &text), expected, "{text} at {now:?}");
        }
    }
}

fn assert_near(found: Duration, expected: Duration, text: &str) {
    let apart = found.abs_diff(expected).as_secs_f64();
    assert!(apart <= 1e-6 + expected.as_secs_f64() * 1e-9, "{text:?}: {found:?}, not {expected:?}");
}

/// Parses digits, optionally followed by a point and digits.
fn slow_seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(part) {
        return None;
    }
    let nanos: String = part.chars().chain("000000000".chars()).take(9).collect();
    // A number too large for any clock is not checked.
    let whole = whole.parse().ok().filter(|whole: &u64| *whole < 1 << 60)?;
    Some(Duration::new(whole, nanos.parse().ok()?))
}

/// Formats a time, in seconds since 1970, in the forms of RFC 9110, 5.6.7. The function counts the
/// date day by day.
fn date(moment: u64, form: u8) -> String {
    let (mut day, second) = (moment / 86_400, moment % 86_400);
    let weekday = (day + 4) % 7;
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let days = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= days[month] {
        day -= days[month];
        month += 1;
    }
    day += 1;
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const WEEKDAYS: [&str; 7] =
        ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let (month, long) = (MONTHS[month], WEEKDAYS[weekday as usize]);
    let short = &long[..3];
    let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    match form {
        0 => format!("{short}, {day:02} {month} {year} {time} GMT"),
        1 => format!("{long}, {day:02}-{month}-{:02} {time} GMT", year % 100),
        _ => format!("{short} {month} {day:2} {time} {year}"),
    }
}

#[test]
fn dates_are_written_as_in_the_standard() {
    let shown =
        ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"];
    for (form, text) in (0..).zip(shown) {
        assert_eq!(date(784_111_777, form), text);
    }
}
