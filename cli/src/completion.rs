//! Completion with the tab key: commands, their options, and keys.
//!
//! Keys come from the server, in one request on the connection that is already open: the tab key
//! neither connects nor asks for a secret. Keys that cannot be typed are left out.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use kvs::Connection;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::arguments;
use crate::quoting::{PartialLine, Unquoted, quote_word};

/// The maximum number of keys that are offered.
const MAX_KEYS: u32 = 200;

/// The connection of the prompt, while it has one.
pub(crate) type SharedConnection = Rc<RefCell<Option<Arc<Connection>>>>;

/// The helper of the line editor.
#[derive(Debug)]
pub(crate) struct LineCompleter {
    connection: SharedConnection,
    commands: clap::Command,
}

impl LineCompleter {
    pub(crate) fn new(connection: SharedConnection) -> Self {
        Self { connection, commands: arguments::prompt_parser() }
    }

    /// The candidates for the word at the cursor.
    fn candidates(&self, line: &PartialLine) -> Vec<Pair> {
        let last = String::from_utf8_lossy(&line.last);
        let Some((first, others)) = line.words.split_first() else {
            return self.commands_with_prefix(&last);
        };
        let first = String::from_utf8_lossy(first);
        let Some(command) = self.commands.find_subcommand(&*first) else { return Vec::new() };
        if last.starts_with('-') && !others.contains(&b"--".to_vec()) {
            return options_with_prefix(command, &last);
        }
        match &*first {
            "help" if others.is_empty() => self.commands_with_prefix(&last),
            "get" | "put" | "keys" if others.is_empty() => self.keys_with_prefix(&line.last),
            "delete" | "watch" => self.keys_with_prefix(&line.last),
            _ => Vec::new(),
        }
    }

    fn commands_with_prefix(&self, prefix: &str) -> Vec<Pair> {
        let names = self.commands.get_subcommands().map(clap::Command::get_name);
        names.filter(|name| name.starts_with(prefix)).map(pair).collect()
    }

    fn keys_with_prefix(&self, prefix: &[u8]) -> Vec<Pair> {
        let Some(connection) = self.connection.borrow().clone() else { return Vec::new() };
        let Ok((mut keys, _)) = connection.keys_page(prefix, 0, MAX_KEYS) else {
            return Vec::new();
        };
        keys.sort_unstable();
        keys.iter()
            .filter_map(|key| {
                let replacement = format!("{} ", quote_word(key)?);
                Some(Pair { display: Unquoted(key).to_string(), replacement })
            })
            .collect()
    }
}

fn options_with_prefix(command: &clap::Command, prefix: &str) -> Vec<Pair> {
    let names = command.get_arguments().filter_map(clap::Arg::get_long);
    let names = names.map(|name| format!("--{name}"));
    names.filter(|name| name.starts_with(prefix)).map(|name| pair(&name)).collect()
}

fn pair(word: &str) -> Pair {
    Pair { display: word.into(), replacement: format!("{word} ") }
}

impl Completer for LineCompleter {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let line = PartialLine::parse(&line[..position]);
        Ok((line.start, self.candidates(&line)))
    }
}

impl Hinter for LineCompleter {
    type Hint = String;
}

impl Highlighter for LineCompleter {}

impl Validator for LineCompleter {}

impl Helper for LineCompleter {}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &str) -> Vec<String> {
        let completion = LineCompleter::new(SharedConnection::default());
        let candidates = completion.candidates(&PartialLine::parse(line));
        candidates.into_iter().map(|pair| pair.replacement).collect()
    }

    #[test]
    fn commands_and_options_are_completed() {
        assert_eq!(offered("ke"), ["keys "]);
        assert_eq!(offered("un"), ["unwatch "]);
        assert_eq!(offered("help sta"), ["status "]);
        assert_eq!(offered("put k v --if"), ["--if-version "]);
        assert_eq!(offered("get k --j"), ["--json "]);
        assert!(offered("").contains(&"help ".to_owned()));
        assert!(offered("bogus ").is_empty() && offered("get -- --j").is_empty());
    }
}
