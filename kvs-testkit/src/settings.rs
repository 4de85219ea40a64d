//! Environment variables that make a test longer or repeat a random run.

use std::str::FromStr;

/// The number in the variable `name`; `None` if the variable is unset or empty.
///
/// # Panics
/// If the variable is not a number.
pub fn number_from_env<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no such number")))
}
