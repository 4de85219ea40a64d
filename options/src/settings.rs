//! Displays the options in effect as a configuration file that has the same effect.

use std::fmt;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use toml_edit::Value;

use crate::file::{ConfigFile, is_allowed_in_file};

/// The options in effect, each with its source.
pub(crate) struct Settings<'a> {
    pub(crate) matches: &'a ArgMatches,
    pub(crate) command: &'a Command,
    pub(crate) file: Option<&'a ConfigFile>,
}

impl fmt::Display for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for option in self.command.get_arguments().filter(|option| is_allowed_in_file(option)) {
            let (id, Some(long)) = (option.get_id().as_str(), option.get_long()) else { continue };
            let Some(mut values) = self.matches.get_raw(id) else {
                writeln!(f, "# {long} is not set")?;
                continue;
            };
            let value = values.next().unwrap_or_default().to_string_lossy();
            let entries = self.file.map_or(&[][..], |file| &file.entries);
            let source = match self.matches.value_source(id) {
                Some(ValueSource::CommandLine) => format!("--{long}"),
                Some(ValueSource::EnvVariable) => {
                    option.get_env().unwrap_or_default().to_string_lossy().into_owned()
                }
                _ => match entries.iter().find(|entry| entry.id == id) {
                    Some(entry) => format!("line {}", entry.line),
                    None => "default".to_owned(),
                },
            };
            let setting = format!("{long} = {}", to_toml(&value));
            writeln!(f, "{setting:<40} # {source}")?;
        }
        Ok(())
    }
}

/// Numbers and booleans as such, everything else in quotes.
fn to_toml(value: &str) -> String {
    let is_number = value.parse::<i64>().is_ok_and(|number| number.to_string() == value);
    if is_number || ["true", "false"].contains(&value) {
        value.to_owned()
    } else {
        Value::from(value).to_string()
    }
}
