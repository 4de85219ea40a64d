//! A file in which every option of a program may be set, besides the command line and the environment.
//!
//! The file is TOML, without sections: each key is the long name of an option without its dashes, and its value is
//! what the command line would take, a flag being `true` or `false`. What is on the command line counts before
//! the environment, that before the file, and the file before what is built in.
//!
//! Nothing is said twice for that: a program declares its options to clap alone. What the file has is checked by the
//! options' own parsers, so that it is wrong in the file if and only if it is wrong on the command line, and becomes
//! the default of its option. All that is wrong in a file is told at once, each with its line.
//!
//! The program has an option `--config FILE`, and where [`Parsed::settings`] shall be seen one `--check-config`; these two
//! cannot be in a file.

#![forbid(unsafe_code)]

use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::num::{IntErrorKind, ParseIntError};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Parser};
use toml_edit::{Document, Item, Value};

/// The option that names the file.
const CONFIG: &str = "config";
/// Options of the command line alone.
const NOT_IN_FILES: [&str; 4] = [CONFIG, "check_config", "help", "version"];

/// The largest file in bytes.
const LARGEST: u64 = 1_000_000;

/// Names that are so alike are taken for each other's misspellings.
const ALIKE: f64 = 0.8;

/// What a program is told, wherever it stands.
#[derive(Debug)]
pub struct Parsed<A> {
    /// The options.
    pub options: A,
    matches: ArgMatches,
    command: Command,
    file: Option<File>,
}

/// What a file says.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// One option in a file.
#[derive(Debug)]
struct Entry {
    /// As clap knows it.
    id: String,
    /// As it would stand on the command line.
    value: String,
    line: usize,
}

/// Why options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the environment; or help was asked for.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in the file is wrong.
    #[error("{}", Mistakes(path, mistakes))]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// What, line by line.
        mistakes: Vec<Mistake>,
    },
}

/// What is wrong in a line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

struct Mistakes<'a>(&'a Path, &'a [Mistake]);

impl fmt::Display for Mistakes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Mistake { line, what }) in self.1.iter().enumerate() {
            let before = if n > 0 { "\n" } else { "" };
            write!(f, "{before}{}:{line}: {what}", self.0.display())?;
        }
        Ok(())
    }
}

impl Error {
    /// Prints what has to be said, where it belongs, and returns the exit code for it: 0 where help was asked for,
    /// otherwise 2.
    pub fn report(&self, program: &str) -> ExitCode {
        match self {
            Self::Usage(error) => {
                // With its output closed, there is nobody to tell.
                let _ = error.print();
                u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            error => {
                eprintln!("{program}: {error}");
                ExitCode::from(2)
            }
        }
    }
}

/// Parses `arguments` (the name of the program first), the environment, and the file that `--config` names.
///
/// # Errors
/// [`Error`] says what is wrong where.
pub fn parse<A: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed<A>, Error> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let command = A::command();
    let (filled, file) = fill(command.clone(), &arguments, None)?;
    let matches = filled.try_get_matches_from(&arguments)?;
    let options = A::from_arg_matches(&matches)?;
    Ok(Parsed { options, matches, command, file })
}

/// The command with the options of a file as their defaults: the file that `--config` names among the arguments or in the
/// environment, or else `usual`, if that is there. Options that were filled in stand behind the others.
///
/// # Errors
/// [`Error`]. Of the arguments nothing is checked.
pub fn fill(
    mut command: Command,
    arguments: &[OsString],
    usual: Option<&Path>,
) -> Result<(Command, Option<File>), Error> {
    // The other options are not looked at yet, nor what the environment has for them.
    let only_config = command.clone().ignore_errors(true).mut_args(|option| {
        let is_config = option.get_id() == CONFIG;
        if is_config { option } else { option.env(Resettable::Reset) }
    });
    let first = match only_config.try_get_matches_from(arguments) {
        Ok(first) => first,
        // Help, or the version: to be told by the command as it is.
        Err(error) => {
            return Err(command.try_get_matches_from(arguments).err().unwrap_or(error).into());
        }
    };
    let named = first.try_get_one::<PathBuf>(CONFIG).ok().flatten().map(PathBuf::as_path);
    let named = named.filter(|path| !path.as_os_str().is_empty());
    let usual = usual.filter(|path| named.is_none() && path.exists());
    let file = named.or(usual).map(|path| File::read(path, &command)).transpose()?;
    for entry in file.iter().flat_map(|file| &file.entries) {
        command = command.mut_arg(&entry.id, |option| option.default_value(entry.value.clone()));
    }
    Ok((command, file))
}

impl File {
    fn read(path: &Path, command: &Command) -> Result<Self, Error> {
        let text =
            read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        match entries(&text, command) {
            Ok(entries) => Ok(Self { path: path.to_owned(), entries }),
            Err(mistakes) => Err(Error::Mistakes { path: path.to_owned(), mistakes }),
        }
    }
}

/// A file that is no larger than one that somebody has written.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    match text.len() as u64 {
        ..=LARGEST => Ok(text),
        _ => Err(io::Error::other("it has more than a megabyte")),
    }
}

/// What the text of a file sets, or all that is wrong with it.
fn entries(text: &str, command: &Command) -> Result<Vec<Entry>, Vec<Mistake>> {
    let line_of = |span: Option<Range<usize>>| {
        // Everything that was parsed from a text has its place there.
        let at = span.map_or(0, |span| span.start).min(text.len());
        text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    };
    let document = Document::parse(text).map_err(|error| {
        let what = error.message().trim_end().replace('\n', "; ");
        let line = line_of(error.span());
        let hint = if lacks_quotes(text, line) { " (text stands in quotes)" } else { "" };
        vec![Mistake { line, what: format!("this is not TOML: {what}{hint}") }]
    })?;
    let (mut entries, mut mistakes) = (Vec::new(), Vec::new());
    for (name, item) in document.iter() {
        let key = document.key(name);
        let line = line_of(key.and_then(|key| key.span()).or_else(|| item.span()));
        match entry(name, item, text, command) {
            Ok((id, value)) => entries.push(Entry { id, value, line }),
            Err(what) => mistakes.push(Mistake { line, what }),
        }
    }
    if mistakes.is_empty() { Ok(entries) } else { Err(mistakes) }
}

/// Whether the value in this line is neither in quotes nor a number or a truth.
fn lacks_quotes(text: &str, line: usize) -> bool {
    let value = text.lines().nth(line - 1).and_then(|line| line.split_once('='));
    let Some((_, value)) = value else { return false };
    let value = value.split('#').next().unwrap_or_default().trim();
    let is_number = value.parse::<f64>().is_ok();
    !value.is_empty() && !value.starts_with(['"', '\'', '[', '{']) && !is_number
}

/// The option of this name with its value, or what is wrong with it.
fn entry(
    name: &str,
    item: &Item,
    text: &str,
    command: &Command,
) -> Result<(String, String), String> {
    let Some(value) = item.as_value() else {
        return Err(format!("[{name}]: there are no sections, each option stands by itself"));
    };
    let options = || command.get_arguments().filter(|option| is_in_files(option));
    let Some(option) = options().find(|option| option.get_long() == Some(name)) else {
        let alike = options()
            .filter_map(Arg::get_long)
            .map(|long| (strsim::jaro_winkler(long, name), long));
        let nearest = alike.max_by(|one, other| one.0.total_cmp(&other.0));
        let hint = match nearest {
            Some((likeness, long)) if likeness >= ALIKE => format!("; is {long} meant?"),
            _ => ". --help lists all, each with -- before its name".to_owned(),
        };
        return Err(format!("there is no option {name}{hint}"));
    };
    let value = written(value, text).ok_or_else(|| {
        format!("{name}: it must be a number, a text in quotes, or true or false")
    })?;
    if let ArgAction::SetTrue = option.get_action() {
        if !["true", "false"].contains(&value.as_str()) {
            return Err(format!("{name} = {value}: it must be true or false"));
        }
    } else {
        check(option, &value).map_err(|why| format!("{name} = {value}: {why}"))?;
    }
    Ok((option.get_id().to_string(), value))
}

/// Whether a file may have this option.
pub fn is_in_files(option: &Arg) -> bool {
    !NOT_IN_FILES.contains(&option.get_id().as_str())
}

/// A value as it would stand on the command line. Numbers are taken as they are written: 0660 is no number in
/// TOML, and 0o660 shall not become 432.
fn written(value: &Value, text: &str) -> Option<String> {
    match value {
        Value::String(text) => Some(text.value().clone()),
        Value::Boolean(is) => Some(is.value().to_string()),
        Value::Integer(_) | Value::Float(_) => {
            Some(text.get(value.span()?)?.trim().replace('_', ""))
        }
        Value::Datetime(_) | Value::Array(_) | Value::InlineTable(_) => None,
    }
}

/// What the option's own parser has to say to a value.
fn check(option: &Arg, value: &str) -> Result<(), String> {
    let Some(long) = option.get_long() else { return Ok(()) };
    // Alone: what else is wrong on the command line or in the environment has its own message.
    let option = option.clone().env(Resettable::Reset).required(false);
    let alone = Command::new("check").disable_help_flag(true).arg(option);
    let Err(error) = alone.try_get_matches_from(["check".to_owned(), format!("--{long}={value}")])
    else {
        return Ok(());
    };
    if let Some(why) = error.source() {
        return Err(match why.downcast_ref::<ParseIntError>() {
            Some(error) if *error.kind() == IntErrorKind::InvalidDigit => {
                "it must be a number".into()
            }
            _ => why.to_string(),
        });
    }
    // Where clap knows the reason, it gives a sentence and, on a line of its own, what is possible.
    let said = error.to_string();
    let possible = said.lines().find_map(|line| line.trim().strip_prefix("[possible values: "));
    Err(match possible.and_then(|possible| possible.strip_suffix(']')) {
        Some(possible) => format!("it must be one of {possible}"),
        None => "it has no value".to_owned(),
    })
}

impl<A> Parsed<A> {
    /// All options as they are in force, and where each comes from: a file that says the same.
    pub fn settings(&self) -> impl fmt::Display + '_ {
        Settings { matches: &self.matches, command: &self.command, file: self.file.as_ref() }
    }

    /// The file that was read.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }
}

struct Settings<'a> {
    matches: &'a ArgMatches,
    command: &'a Command,
    file: Option<&'a File>,
}

impl fmt::Display for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for option in self.command.get_arguments().filter(|option| is_in_files(option)) {
            let (id, Some(long)) = (option.get_id().as_str(), option.get_long()) else { continue };
            let Some(mut values) = self.matches.get_raw(id) else {
                writeln!(f, "# {long} is not set")?;
                continue;
            };
            let value = values.next().unwrap_or_default().to_string_lossy();
            let source = match self.matches.value_source(id) {
                Some(ValueSource::CommandLine) => format!("--{long}"),
                Some(ValueSource::EnvVariable) => {
                    option.get_env().unwrap_or_default().to_string_lossy().into_owned()
                }
                _ => match self
                    .file
                    .and_then(|file| file.entries.iter().find(|entry| entry.id == id))
                {
                    Some(entry) => format!("line {}", entry.line),
                    None => "built in".to_owned(),
                },
            };
            let setting = format!("{long} = {}", as_toml(&value));
            writeln!(f, "{setting:<40} # {source}")?;
        }
        Ok(())
    }
}

/// Numbers and truths as such, all else in quotes.
fn as_toml(value: &str) -> String {
    let is_number = value.parse::<i64>().is_ok_and(|number| number.to_string() == value);
    if is_number || ["true", "false"].contains(&value) {
        value.to_owned()
    } else {
        Value::from(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{CommandFactory, FromArgMatches};

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
    enum Shape {
        Round,
        Square,
    }

    #[derive(Debug, Parser)]
    struct Options {
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long, default_value = "here")]
        place: String,
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=10))]
        count: u64,
        #[arg(long)]
        mode: Option<String>,
        #[arg(long, value_enum, default_value_t = Shape::Round)]
        shape: Shape,
        // Everybody has it, and it is the same all the time.
        #[arg(long, env = "PATH", default_value = "")]
        from_environment: String,
        #[arg(short, long)]
        flag: bool,
    }

    /// With `text` in a file, and these arguments.
    fn with(text: &str, arguments: &[&str]) -> Result<Parsed<Options>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.toml");
        fs::write(&path, text).unwrap();
        let config = format!("--config={}", path.display());
        let all = ["program", &config].into_iter().chain(arguments.iter().copied());
        parse(all.map(OsString::from))
            .map_err(|error| error.to_string().replace(&path.display().to_string(), "FILE"))
    }

    #[test]
    fn the_file_counts_before_what_is_built_in_and_after_all_else() {
        let text = "# a comment\nplace = \"there\"\ncount = 3\nmode = 0o660\nshape = 'square'\nflag = true\n\
                    from-environment = 'file'\n";
        let Parsed { options, .. } = with(text, &["--count", "4"]).unwrap();
        assert_eq!((options.place.as_str(), options.count), ("there", 4));
        assert_eq!((options.mode.as_deref(), options.shape), (Some("0o660"), Shape::Square));
        assert!(options.flag);
        assert_eq!(options.from_environment, std::env::var("PATH").unwrap());
        let Parsed { options, .. } = with("", &[]).unwrap();
        assert_eq!((options.place.as_str(), options.count, options.flag), ("here", 7, false));
        assert_eq!((options.mode, options.shape), (None, Shape::Round));
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_line() {
        let text = "plac = 1\n\n[section]\nx = 1\n";
        let told = with(text, &[]).unwrap_err();
        assert_eq!(
            told,
            "FILE:1: there is no option plac; is place meant?\n\
             FILE:3: [section]: there are no sections, each option stands by itself"
        );
        let text =
            "count = 11\nflag = 1\nshape = \"oval\"\nplace = [1]\nconfig = 'x'\ncount-of-all = 1";
        let told = with(text, &[]).unwrap_err();
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines[0], "FILE:1: count = 11: 11 is not in 1..=10");
        assert_eq!(lines[1], "FILE:2: flag = 1: it must be true or false");
        assert_eq!(lines[2], "FILE:3: shape = oval: it must be one of round, square");
        assert_eq!(
            lines[3],
            "FILE:4: place: it must be a number, a text in quotes, or true or false"
        );
        assert!(lines[4].starts_with("FILE:5: there is no option config"), "{}", lines[4]);
        assert!(lines[5].starts_with("FILE:6: there is no option count-of-all"), "{}", lines[5]);
        assert_eq!(lines.len(), 6);
        let told = with("place = here", &[]).unwrap_err();
        assert!(told.ends_with(" (text stands in quotes)"), "{told}");
        for (text, line) in [("a = 1\nb = = 2\n", 2), ("count = 1\ncount = 2", 2), ("\n\nplace", 3)]
        {
            let told = with(text, &[]).unwrap_err();
            assert!(told.starts_with(&format!("FILE:{line}: this is not TOML: ")), "{told}");
        }
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_the_usual_one_may_be() {
        let missing = parse::<Options>(["program", "--config=/nowhere/x"].map(OsString::from));
        assert_eq!(
            missing.unwrap_err().to_string(),
            "/nowhere/x cannot be read: No such file or directory (os error 2)"
        );
        let endless = parse::<Options>(["program", "--config=/dev/zero"].map(OsString::from));
        assert!(endless.unwrap_err().to_string().ends_with("it has more than a megabyte"));
        let dir = tempfile::tempdir().unwrap();
        let usual = dir.path().join("usual.toml");
        let count = || {
            let (command, _) = fill(Options::command(), &["program".into()], Some(&usual)).unwrap();
            Options::from_arg_matches(&command.get_matches_from(["program"])).unwrap().count
        };
        assert_eq!(count(), 7);
        fs::write(&usual, "count = 9").unwrap();
        assert_eq!(count(), 9);
    }

    #[test]
    fn help_names_the_environment() {
        let help = parse::<Options>(["program", "--help"].map(OsString::from)).unwrap_err();
        let Error::Usage(help) = help else { panic!("{help}") };
        assert!(help.to_string().contains("PATH="), "{help}");
    }

    #[test]
    fn settings_say_where_they_come_from_and_are_a_file_that_says_the_same() {
        let text = "place = \"a \\\"b\\\"\"\nmode = 660\n";
        let parsed = with(text, &["--count=2", "-f"]).unwrap();
        let settings = parsed.settings().to_string();
        let lines: Vec<_> =
            settings.lines().map(|line| line.rsplit_once(" # ").unwrap_or((line, ""))).collect();
        let of = |n: usize| (lines[n].0.trim_end(), lines[n].1);
        assert_eq!(of(0), ("place = 'a \"b\"'", "line 1"));
        assert_eq!(of(1), ("count = 2", "--count"));
        assert_eq!(of(2), ("mode = 660", "line 2"));
        assert_eq!(of(3), ("shape = \"round\"", "built in"));
        assert_eq!(of(4).1, "PATH");
        assert_eq!(of(5), ("flag = true", "--flag"));
        let again = with(&settings, &[]).unwrap().options;
        let options = parsed.options;
        assert_eq!((again.place, again.count, again.flag), (options.place, 2, true));
    }
}
