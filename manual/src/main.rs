//! Generates the manual pages of the programs and of their configuration files.
//!
//! The prose of a page is in `manual/pages`. There, a line `@OPTIONS program@` stands for all
//! options of the program as its `--help` describes them, and `@SETTINGS program@` for those that
//! its file may set, so a page always has the options of the program. `@VERSION@` stands for the
//! version. The pages are committed; `make check-generated` fails if they differ from the output.
//!
//! `kvs-manual FROM TO` reads the pages in FROM and writes each to the directory of its section in
//! TO.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command, CommandFactory};
use roff::{Inline, Roff, bold, italic, roman};

/// The syntax in which options are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OptionSyntax {
    /// As on the command line.
    CommandLine,
    /// As in the configuration file.
    File,
}

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let result = match arguments.as_slice() {
        [from, to] => write_pages(from, to),
        _ => Err("usage: kvs-manual FROM TO".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvs-manual: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_pages(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    for source in fs::read_dir(from)? {
        let source = source?.path();
        let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (_, section) = name.rsplit_once('.').ok_or_else(|| format!("{name}: no section"))?;
        let text = fs::read_to_string(&source)?;
        let page = expand(&text).map_err(|error| format!("{}: {error}", source.display()))?;
        let dir = to.join(format!("man{section}"));
        fs::create_dir_all(&dir)?;
        let path = dir.join(name);
        // An unchanged page keeps its modification time.
        if fs::read_to_string(&path).ok().as_ref() != Some(&page) {
            fs::write(path, page)?;
        }
    }
    Ok(())
}

/// Replaces the markers of a page.
fn expand(text: &str) -> Result<String, Box<dyn Error>> {
    let mut page = String::new();
    for line in text.lines() {
        let words = line.strip_prefix('@').and_then(|line| line.strip_suffix('@'));
        match words.and_then(|words| words.split_once(' ')) {
            Some(("OPTIONS", program)) => {
                page += &options(&command(program)?, OptionSyntax::CommandLine)
            }
            Some(("SETTINGS", program)) => page += &options(&command(program)?, OptionSyntax::File),
            _ if line.starts_with('@') => return Err(format!("unknown marker {line}").into()),
            _ => {
                page += &line.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
                page.push('\n');
            }
        }
    }
    Ok(page)
}

/// The definition of a program or of a subcommand such as `kvs get`, without the options that it
/// inherits.
fn command(name: &str) -> Result<Command, String> {
    let mut words = name.split(' ');
    let mut command = match words.next() {
        Some("KVS-LocalServer") => kvs_servers::local::Options::command(),
        Some("KVS-AuthServer") => kvs_servers::auth::Options::command(),
        Some("kvs") => kvs_cli::command(),
        _ => return Err(format!("there is no program {name}")),
    };
    command.build();
    for word in words {
        let found = command.find_subcommand(word).cloned();
        let found = found.ok_or_else(|| format!("there is no command {name}"))?;
        let is_inherited = |option: &Arg| {
            option.is_global_set()
                && command.get_arguments().any(|parent| parent.get_id() == option.get_id())
        };
        command = found.mut_args(|option| {
            let hide = option.is_hide_set() || is_inherited(&option);
            option.hide(hide)
        });
    }
    Ok(command)
}

fn options(command: &Command, syntax: OptionSyntax) -> String {
    let mut page = Roff::new();
    for option in command.get_arguments() {
        let is_listed = match syntax {
            OptionSyntax::CommandLine => !option.is_hide_set() && option.get_id() != "help",
            OptionSyntax::File => kvs_options::is_allowed_in_file(option),
        };
        if is_listed {
            page.control("TP", []);
            page.text(term(option, syntax));
            page.text(description(option, syntax));
        }
    }
    page.to_roff()
}

/// The name of an option and its value.
fn term(option: &Arg, syntax: OptionSyntax) -> Vec<Inline> {
    let mut term = Vec::new();
    let long = option.get_long();
    let names = option.get_value_names().unwrap_or_default();
    let value = names.first().map_or("VALUE", |name| name.as_str());
    let takes_value = option.get_action().takes_values();
    match (syntax, long) {
        (OptionSyntax::File, Some(long)) => {
            term.extend([bold(long), roman(" = ")]);
            term.push(if takes_value { italic(value) } else { bold("true") });
            return term;
        }
        (_, None) if option.get_short().is_none() => {
            term.push(italic(value));
            if matches!(option.get_action(), ArgAction::Append) {
                term.push(roman("…"));
            }
            return term;
        }
        _ => {}
    }
    if let Some(short) = option.get_short() {
        term.push(bold(format!("-{short}")));
    }
    if let Some(long) = long {
        if !term.is_empty() {
            term.push(roman(", "));
        }
        term.push(bold(format!("--{long}")));
    }
    if takes_value {
        term.extend([roman(" "), italic(value)]);
    }
    term
}

fn description(option: &Arg, syntax: OptionSyntax) -> Vec<Inline> {
    let help = option.get_long_help().or(option.get_help()).map(ToString::to_string);
    let help = help.unwrap_or_default().replace('\n', " ");
    // The default of an option that depends on another option is part of its help.
    let (help, computed_default) = match help.split_once(" [default: ") {
        Some((help, default)) => (help, default.strip_suffix(']')),
        None => (help.as_str(), None),
    };
    let mut text = Vec::new();
    // Text between backticks is literal.
    for (n, part) in help.split('`').enumerate() {
        text.push(if n % 2 == 0 { roman(part) } else { bold(part) });
    }
    text.push(roman("."));
    let is_flag = !option.get_action().takes_values();
    let possible = if is_flag { Vec::new() } else { option.get_possible_values() };
    if !possible.is_empty() {
        text.push(roman(" One of"));
        for (n, value) in possible.iter().enumerate() {
            text.push(roman(if n > 0 { "," } else { "" }));
            text.extend([roman(" "), bold(value.get_name())]);
            let help = value.get_help().map(|help| help.to_string().to_lowercase());
            text.extend(help.map(|help| roman(format!(" ({help})"))));
        }
        text.push(roman("."));
    }
    if let Some(default) = computed_default {
        text.push(roman(format!(" Default: {default}.")));
    }
    let defaults = option.get_default_values();
    if let (Some(default), false) = (defaults.first(), is_flag) {
        text.extend([roman(" Default: "), bold(default.to_string_lossy()), roman(".")]);
    }
    if let (OptionSyntax::CommandLine, Some(name)) = (syntax, option.get_env()) {
        text.extend([roman(" Environment: "), bold(name.to_string_lossy()), roman(".")]);
    }
    text
}
