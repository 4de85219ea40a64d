//! Reads a configuration file: TOML without sections, whose keys are long names of options.
//!
//! A value is checked by the parser of its option, so that the file accepts the same values as the
//! command line. All errors of a file are reported at once, each with its line.

use std::error::Error as _;
use std::io::{self, Read};
use std::num::{IntErrorKind, ParseIntError};
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};
use toml_edit::{Document, Item, Value};

use crate::error::{Error, LineError};

/// The option that names the file.
pub(crate) const CONFIG_OPTION: &str = "config";

/// Options that only the command line may have.
const COMMAND_LINE_ONLY: [&str; 4] = [CONFIG_OPTION, "check_config", "help", "version"];

/// The maximum size of a file in bytes.
const MAX_FILE_LEN: u64 = 1_000_000;

/// The options that a file sets.
#[derive(Debug)]
pub struct ConfigFile {
    pub(crate) path: PathBuf,
    pub(crate) entries: Vec<ConfigEntry>,
}

/// One option of a file.
#[derive(Debug)]
pub(crate) struct ConfigEntry {
    /// The id of the option in clap.
    pub(crate) id: String,
    /// The value as it would be on the command line.
    pub(crate) value: String,
    pub(crate) line: usize,
}

impl ConfigFile {
    pub(crate) fn read(path: &Path, command: &Command) -> Result<Self, Error> {
        let text = read_text(path)
            .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        match parse_entries(&text, command) {
            Ok(entries) => Ok(Self { path: path.to_owned(), entries }),
            Err(errors) => Err(Error::InvalidFile { path: path.to_owned(), errors }),
        }
    }
}

/// Whether a file may set this option.
pub fn is_allowed_in_file(option: &Arg) -> bool {
    !COMMAND_LINE_ONLY.contains(&option.get_id().as_str())
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE_LEN + 1).read_to_string(&mut text)?;
    match text.len() as u64 {
        ..=MAX_FILE_LEN => Ok(text),
        _ => Err(io::Error::other("the file is larger than a megabyte")),
    }
}

/// The options that the text of a file sets, or all its errors.
fn parse_entries(text: &str, command: &Command) -> Result<Vec<ConfigEntry>, Vec<LineError>> {
    let line_of = |span: Option<Range<usize>>| {
        // Every item of a parsed document has a span.
        let start = span.map_or(0, |span| span.start).min(text.len());
        text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1
    };
    let document = Document::parse(text).map_err(|error| {
        let message = error.message().trim_end().replace('\n', "; ");
        let line = line_of(error.span());
        let hint = if lacks_quotes(text, line) { " (text needs quotes)" } else { "" };
        vec![LineError { line, message: format!("this is not TOML: {message}{hint}") }]
    })?;
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    for (name, item) in document.iter() {
        let key = document.key(name);
        let line = line_of(key.and_then(|key| key.span()).or_else(|| item.span()));
        match parse_entry(name, item, text, command) {
            Ok((id, value)) => entries.push(ConfigEntry { id, value, line }),
            Err(message) => errors.push(LineError { line, message }),
        }
    }
    if errors.is_empty() { Ok(entries) } else { Err(errors) }
}

/// Whether the value in this line is text without quotes.
fn lacks_quotes(text: &str, line: usize) -> bool {
    let value = text.lines().nth(line - 1).and_then(|line| line.split_once('='));
    let Some((_, value)) = value else { return false };
    let value = value.split('#').next().unwrap_or_default().trim();
    let is_number = value.parse::<f64>().is_ok();
    !value.is_empty() && !value.starts_with(['"', '\'', '[', '{']) && !is_number
}

/// The id and the value of an option, or the message of an error.
fn parse_entry(
    name: &str,
    item: &Item,
    text: &str,
    command: &Command,
) -> Result<(String, String), String> {
    let Some(value) = item.as_value() else {
        return Err(format!(
            "[{name}]: sections are not supported; write each option as NAME = VALUE"
        ));
    };
    let options = || command.get_arguments().filter(|option| is_allowed_in_file(option));
    let Some(option) = options().find(|option| option.get_long() == Some(name)) else {
        let hint = match suggestion(name, options()) {
            Some(long) => format!("; did you mean {long}?"),
            None => ". --help lists all, each with -- before its name".to_owned(),
        };
        return Err(format!("there is no option {name}{hint}"));
    };
    let value = as_argument(value, text)
        .ok_or_else(|| format!("{name}: it must be a number, text in quotes, true or false"))?;
    if let ArgAction::SetTrue = option.get_action() {
        if !["true", "false"].contains(&value.as_str()) {
            return Err(format!("{name} = {value}: it must be true or false"));
        }
    } else {
        check_value(option, &value).map_err(|why| format!("{name} = {value}: {why}"))?;
    }
    Ok((option.get_id().to_string(), value))
}

/// The name that clap suggests on the command line in place of a misspelled one.
fn suggestion<'a>(name: &str, options: impl Iterator<Item = &'a Arg>) -> Option<String> {
    let options = options.map(|option| standalone(option.clone()));
    let command = Command::new("check").disable_help_flag(true).args(options);
    let error = command.try_get_matches_from(["check".to_owned(), format!("--{name}")]).err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(long) => Some(long.trim_start_matches('-').to_owned()),
        _ => None,
    }
}

/// The option without its variable and without dependence on others, whose errors are reported
/// elsewhere.
fn standalone(option: Arg) -> Arg {
    option.env(Resettable::Reset).required(false)
}

/// A value as it would be on the command line. Numbers are taken literally: 0660 is not a number in
/// TOML, and 0o660 must not become 432.
fn as_argument(value: &Value, text: &str) -> Option<String> {
    match value {
        Value::String(text) => Some(text.value().clone()),
        Value::Boolean(boolean) => Some(boolean.value().to_string()),
        Value::Integer(_) | Value::Float(_) => {
            Some(text.get(value.span()?)?.trim().replace('_', ""))
        }
        Value::Datetime(_) | Value::Array(_) | Value::InlineTable(_) => None,
    }
}

/// Checks a value with the parser of its option.
fn check_value(option: &Arg, value: &str) -> Result<(), String> {
    let Some(long) = option.get_long() else { return Ok(()) };
    let command = Command::new("check").disable_help_flag(true).arg(standalone(option.clone()));
    let arguments = ["check".to_owned(), format!("--{long}={value}")];
    let Err(error) = command.try_get_matches_from(arguments) else { return Ok(()) };
    if let Some(why) = error.source() {
        return Err(match why.downcast_ref::<ParseIntError>() {
            Some(error) if *error.kind() == IntErrorKind::InvalidDigit => {
                "it must be a number".into()
            }
            _ => why.to_string(),
        });
    }
    // An error of clap itself has the possible values on a line of their own.
    let message = error.to_string();
    let possible = message.lines().find_map(|line| line.trim().strip_prefix("[possible values: "));
    Err(match possible.and_then(|possible| possible.strip_suffix(']')) {
        Some(possible) => format!("it must be one of {possible}"),
        None => "the value is missing".to_owned(),
    })
}
