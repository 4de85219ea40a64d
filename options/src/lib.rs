//! Options of a program from the command line, the environment and a TOML file.
//!
//! The file has no sections: each key is the long name of an option without its dashes, and each
//! value is what the command line takes; a flag is `true` or `false`. The command line overrides
//! the environment, which overrides the file, which overrides the defaults.
//!
//! A program declares its options to clap only. The values of the file become the defaults of their
//! options. The program has an option `--config FILE` and, to show [`ParsedOptions::settings`], an
//! option `--check-config`; these two cannot be in a file.
//!
//! - `file`: reads and checks the file.
//! - `settings`: displays the options in effect.
//! - `error`: errors, and how they are reported.

#![forbid(unsafe_code)]

mod error;
mod file;
mod settings;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::{ArgMatches, Command, Parser};

pub use crate::error::{Error, LineError};
use crate::file::CONFIG_OPTION;
pub use crate::file::{ConfigFile, is_allowed_in_file};
use crate::settings::Settings;

/// The options of a program, and where they come from.
#[derive(Debug)]
pub struct ParsedOptions<A> {
    /// The options.
    pub options: A,
    matches: ArgMatches,
    command: Command,
    file: Option<ConfigFile>,
}

impl<A> ParsedOptions<A> {
    /// All options in effect, each with its source, as a configuration file with the same effect.
    pub fn settings(&self) -> impl fmt::Display + '_ {
        Settings { matches: &self.matches, command: &self.command, file: self.file.as_ref() }
    }

    /// The file that was read.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }
}

/// Parses `arguments` (the name of the program first), the environment, and the file of `--config`.
///
/// # Errors
/// [`Error`]
pub fn parse<A: Parser>(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<ParsedOptions<A>, Error> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let command = A::command();
    let (filled, file) = fill(command.clone(), &arguments, None)?;
    let matches = filled.try_get_matches_from(&arguments)?;
    let options = A::from_arg_matches(&matches)?;
    Ok(ParsedOptions { options, matches, command, file })
}

/// Makes the values of a file the defaults of the options of `command`. The file is the one that
/// `--config` or its variable names, or else `default_file` if that exists.
///
/// # Errors
/// [`Error`] if the file cannot be used, or if help was asked for. The arguments are not checked.
pub fn fill(
    mut command: Command,
    arguments: &[OsString],
    default_file: Option<&Path>,
) -> Result<(Command, Option<ConfigFile>), Error> {
    // Only --config matters here, so other variables and errors are ignored.
    let only_config = command.clone().ignore_errors(true).mut_args(|option| {
        let is_config = option.get_id() == CONFIG_OPTION;
        if is_config { option } else { option.env(Resettable::Reset) }
    });
    let first = match only_config.try_get_matches_from(arguments) {
        Ok(first) => first,
        // Help or the version: the unchanged command prints it.
        Err(error) => {
            return Err(command.try_get_matches_from(arguments).err().unwrap_or(error).into());
        }
    };
    let named = first.try_get_one::<PathBuf>(CONFIG_OPTION).ok().flatten().map(PathBuf::as_path);
    let named = named.filter(|path| !path.as_os_str().is_empty());
    let default_file = default_file.filter(|path| named.is_none() && path.exists());
    let file = named.or(default_file).map(|path| ConfigFile::read(path, &command)).transpose()?;
    for entry in file.iter().flat_map(|file| &file.entries) {
        command = command.mut_arg(&entry.id, |option| option.default_value(entry.value.clone()));
    }
    Ok((command, file))
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
        // PATH is always set, and no test changes it.
        #[arg(long, env = "PATH", default_value = "")]
        from_environment: String,
        #[arg(short, long)]
        flag: bool,
    }

    /// Parses `text` as the file, and these arguments.
    fn parse_with(text: &str, arguments: &[&str]) -> Result<ParsedOptions<Options>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.toml");
        fs::write(&path, text).unwrap();
        let config = format!("--config={}", path.display());
        let all = ["program", &config].into_iter().chain(arguments.iter().copied());
        parse(all.map(OsString::from))
            .map_err(|error| error.to_string().replace(&path.display().to_string(), "FILE"))
    }

    #[test]
    fn file_overrides_defaults_and_nothing_else() {
        let text = "# a comment\nplace = \"there\"\ncount = 3\nmode = 0o660\n\
                    shape = 'square'\nflag = true\n\
                    from-environment = 'file'\n";
        let ParsedOptions { options, .. } = parse_with(text, &["--count", "4"]).unwrap();
        assert_eq!((options.place.as_str(), options.count), ("there", 4));
        assert_eq!((options.mode.as_deref(), options.shape), (Some("0o660"), Shape::Square));
        assert!(options.flag);
        assert_eq!(options.from_environment, std::env::var("PATH").unwrap());
        let ParsedOptions { options, .. } = parse_with("", &[]).unwrap();
        assert_eq!((options.place.as_str(), options.count, options.flag), ("here", 7, false));
        assert_eq!((options.mode, options.shape), (None, Shape::Round));
    }

    #[test]
    fn every_error_is_reported_with_its_line() {
        let text = "plac = 1\n\n[section]\nx = 1\n";
        let errors = parse_with(text, &[]).unwrap_err();
        assert_eq!(
            errors,
            "FILE:1: there is no option plac; did you mean place?\n\
             FILE:3: [section]: sections are not supported; write each option as NAME = VALUE"
        );
        let text =
            "count = 11\nflag = 1\nshape = \"oval\"\nplace = [1]\nconfig = 'x'\ncount-of-all = 1";
        let errors = parse_with(text, &[]).unwrap_err();
        let lines: Vec<_> = errors.lines().collect();
        assert_eq!(lines[0], "FILE:1: count = 11: 11 is not in 1..=10");
        assert_eq!(lines[1], "FILE:2: flag = 1: it must be true or false");
        assert_eq!(lines[2], "FILE:3: shape = oval: it must be one of round, square");
        assert_eq!(lines[3], "FILE:4: place: it must be a number, text in quotes, true or false");
        assert!(lines[4].starts_with("FILE:5: there is no option config"), "{}", lines[4]);
        assert!(lines[5].starts_with("FILE:6: there is no option count-of-all"), "{}", lines[5]);
        assert_eq!(lines.len(), 6);
        let errors = parse_with("place = here", &[]).unwrap_err();
        assert!(errors.ends_with(" (text needs quotes)"), "{errors}");
        for (text, line) in [("a = 1\nb = = 2\n", 2), ("count = 1\ncount = 2", 2), ("\n\nplace", 3)]
        {
            let errors = parse_with(text, &[]).unwrap_err();
            assert!(errors.starts_with(&format!("FILE:{line}: this is not TOML: ")), "{errors}");
        }
    }

    #[test]
    fn named_file_must_exist_and_default_file_need_not() {
        let missing = parse::<Options>(["program", "--config=/nowhere/x"].map(OsString::from));
        assert_eq!(
            missing.unwrap_err().to_string(),
            "cannot read /nowhere/x: No such file or directory (os error 2)"
        );
        let endless = parse::<Options>(["program", "--config=/dev/zero"].map(OsString::from));
        assert!(endless.unwrap_err().to_string().ends_with("the file is larger than a megabyte"));
        let dir = tempfile::tempdir().unwrap();
        let default_file = dir.path().join("default.toml");
        let count = || {
            let (command, _) =
                fill(Options::command(), &["program".into()], Some(&default_file)).unwrap();
            Options::from_arg_matches(&command.get_matches_from(["program"])).unwrap().count
        };
        assert_eq!(count(), 7);
        fs::write(&default_file, "count = 9").unwrap();
        assert_eq!(count(), 9);
    }

    #[test]
    fn help_names_the_variables() {
        let help = parse::<Options>(["program", "--help"].map(OsString::from)).unwrap_err();
        let Error::Usage(help) = help else { panic!("{help}") };
        assert!(help.to_string().contains("PATH="), "{help}");
    }

    #[test]
    fn settings_are_an_equivalent_file_with_sources() {
        let text = "place = \"a \\\"b\\\"\"\nmode = 660\n";
        let parsed = parse_with(text, &["--count=2", "-f"]).unwrap();
        let settings = parsed.settings().to_string();
        let lines: Vec<_> =
            settings.lines().map(|line| line.rsplit_once(" # ").unwrap_or((line, ""))).collect();
        let of = |n: usize| (lines[n].0.trim_end(), lines[n].1);
        assert_eq!(of(0), ("place = 'a \"b\"'", "line 1"));
        assert_eq!(of(1), ("count = 2", "--count"));
        assert_eq!(of(2), ("mode = 660", "line 2"));
        assert_eq!(of(3), ("shape = \"round\"", "default"));
        assert_eq!(of(4).1, "PATH");
        assert_eq!(of(5), ("flag = true", "--flag"));
        let again = parse_with(&settings, &[]).unwrap().options;
        let options = parsed.options;
        assert_eq!((again.place, again.count, again.flag), (options.place, 2, true));
    }
}
