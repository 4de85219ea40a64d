//! What the tab key completes: commands, their options, and keys.
//!
//! Keys come from the server, in one request, over the connection that there is: the tab key neither opens one nor
//! asks for a secret. Keys that cannot be typed are left out.

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
use crate::words::{Plain, Typed, as_typed};

/// The most keys that are offered.
const MOST_KEYS: u32 = 200;

/// The connection of the prompt, as long as it has one.
pub(crate) type Current = Rc<RefCell<Option<Arc<Connection>>>>;

/// For the line editor.
#[derive(Debug)]
pub(crate) struct Completion {
    connection: Current,
    commands: clap::Command,
}

impl Completion {
    pub(crate) fn new(connection: Current) -> Self {
        let mut commands = arguments::line();
        // `help`, and the options that all commands have.
        commands.build();
        Self { connection, commands }
    }

    /// What the last word may become.
    fn candidates(&self, typed: &Typed) -> Vec<Pair> {
        let last = String::from_utf8_lossy(&typed.last);
        let Some((first, others)) = typed.words.split_first() else { return self.names(&last) };
        let first = String::from_utf8_lossy(first);
        let Some(command) = self.commands.find_subcommand(&*first) else { return Vec::new() };
        if last.starts_with('-') && !others.contains(&b"--".to_vec()) {
            return options(command, &last);
        }
        match &*first {
            "help" if others.is_empty() => self.names(&last),
            "get" | "put" | "keys" if others.is_empty() => self.keys(&typed.last),
            "delete" | "watch" => self.keys(&typed.last),
            _ => Vec::new(),
        }
    }

    fn names(&self, beginning: &str) -> Vec<Pair> {
        let names = self.commands.get_subcommands().map(clap::Command::get_name);
        names.filter(|name| name.starts_with(beginning)).map(pair).collect()
    }

    fn keys(&self, beginning: &[u8]) -> Vec<Pair> {
        let Some(connection) = self.connection.borrow().clone() else { return Vec::new() };
        let Ok((mut keys, _)) = connection.keys_page(beginning, 0, MOST_KEYS) else {
            return Vec::new();
        };
        keys.sort_unstable();
        keys.iter()
            .filter_map(|key| {
                let replacement = format!("{} ", as_typed(key)?);
                Some(Pair { display: Plain(key).to_string(), replacement })
            })
            .collect()
    }
}

fn options(command: &clap::Command, beginning: &str) -> Vec<Pair> {
    let names = command.get_arguments().filter_map(clap::Arg::get_long);
    let names = names.map(|name| format!("--{name}"));
    names.filter(|name| name.starts_with(beginning)).map(|name| pair(&name)).collect()
}

fn pair(word: &str) -> Pair {
    Pair { display: word.into(), replacement: format!("{word} ") }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = Typed::new(&line[..position]);
        Ok((typed.start, self.candidates(&typed)))
    }
}

impl Hinter for Completion {
    type Hint = String;
}

impl Highlighter for Completion {}

impl Validator for Completion {}

impl Helper for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &str) -> Vec<String> {
        let completion = Completion::new(Current::default());
        let candidates = completion.candidates(&Typed::new(line));
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
        assert!(offered("nonsense ").is_empty() && offered("get -- --j").is_empty());
    }
}
