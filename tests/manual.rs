//! The manual pages: `man`, `whatis` and groff take all of them, and each refers to pages that exist. Each C function has one, and its prototype
//! is that of the header. And what `build/man.rs` makes of texts that the header does not have now.

#![forbid(unsafe_code)]

#[path = "../build/header.rs"]
mod header;
#[path = "../build/man.rs"]
mod man;
#[path = "../build/roff.rs"]
mod roff;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kvs_testkit::{are_installed, private_dir, project_dir};

/// The page that is about the library, not about a function.
const OVERVIEW: &str = "kvs";

/// The functions that the header declares, with their prototypes. It is read here in another way than by
/// `build/header.rs`.
fn declared() -> BTreeMap<String, String> {
    let header = fs::read_to_string(project_dir().join("include/kvs.h")).expect("there is kvs.h");
    let mut code = String::new();
    for part in header.split("/*") {
        code.push_str(part.split_once("*/").map_or(part, |(_, code)| code));
    }
    let lines = code.lines().filter(|line| !line.starts_with('#'));
    let code = lines.collect::<Vec<_>>().join("\n").replace("extern \"C\" {", "");
    let statements = code.split(';').map(|statement| words(statement) + ";");
    let functions = statements
        .filter(|statement| statement.ends_with(");") && !statement.starts_with("typedef "));
    functions
        .map(|function| {
            let before = function.split('(').next().expect("a function has parameters");
            (before.rsplit([' ', '*']).next().expect("it has a name").to_owned(), function)
        })
        .collect()
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The pages in `man/man3`, which `packaging/install` installs all: their texts by their names.
fn pages() -> BTreeMap<String, String> {
    let dir = project_dir().join("man/man3");
    let page = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("a name of a page is text");
        let name =
            name.strip_suffix(".3").unwrap_or_else(|| panic!("{name} is no page")).to_owned();
        (name, fs::read_to_string(entry.path()).expect("a page is text"))
    };
    let entries = fs::read_dir(&dir).expect("there are pages");
    entries.map(|entry| page(entry.expect("the directory can be read"))).collect()
}

/// The page itself, or the one that it leads to.
fn followed<'a>(pages: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    let page = &pages[name];
    match page.strip_prefix(".so man3/") {
        Some(other) => &pages[other.trim_end().strip_suffix(".3").expect("it leads to a page")],
        None => page,
    }
}

fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let begin = format!(".SH {title}\n");
    let (_, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no {title} in {page}"));
    rest.split("\n.SH ").next().expect("there is always a first part")
}

/// What a synopsis declares, without its fonts.
fn synopsis(page: &str) -> Vec<String> {
    let mut code = String::new();
    for line in section(page, "SYNOPSIS").lines().take_while(|line| *line != ".fi") {
        let Some((request, rest)) = line.split_once(' ') else { continue };
        assert!(request == ".B" || request == ".BI", "{line}");
        if rest.starts_with('#') {
            continue;
        }
        // Outside of quotes a space parts two fonts, and is not printed.
        for (n, part) in rest.split('"').enumerate() {
            code.push_str(&if n % 2 == 0 { part.replace(' ', "") } else { part.to_owned() });
        }
    }
    code.split_inclusive(';').map(words).collect()
}

/// The pages of all sections: `man8/KVS-LocalServer.8`.
fn all_pages() -> Vec<String> {
    let man = project_dir().join("man");
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).expect("there are pages");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("names are text");
        entries.map(|entry| name(entry.expect("it can be read"))).collect::<Vec<_>>()
    };
    let pages: Vec<_> = names(&man)
        .into_iter()
        .flat_map(|section| {
            names(&man.join(&section)).into_iter().map(move |page| format!("{section}/{page}"))
        })
        .collect();
    for section in ["man1/", "man3/", "man5/", "man8/"] {
        assert!(pages.iter().any(|page| page.starts_with(section)), "{section}");
    }
    pages
}

/// Runs a tool on a page, in the directory to which `.so` refers.
fn on_page(tool: &mut Command, page: &str) -> Output {
    tool.arg(page).current_dir(project_dir().join("man"));
    tool.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80");
    tool.output().unwrap_or_else(|error| panic!("{tool:?}: {error}"))
}

#[test]
fn each_function_of_the_header_has_a_page_and_each_page_a_function() {
    let declared = declared();
    assert!(declared.contains_key("put_value") && declared.contains_key("kvs_put"));
    let mut expected: BTreeSet<_> = declared.into_keys().collect();
    expected.insert(OVERVIEW.to_owned());
    assert_eq!(pages().into_keys().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn the_synopsis_of_a_page_has_the_prototype_of_the_header() {
    let pages = pages();
    for (name, prototype) in declared() {
        let synopsis = synopsis(followed(&pages, &name));
        assert!(synopsis.contains(&prototype), "{name}: {prototype} is not in {synopsis:#?}");
    }
}

#[test]
fn a_page_names_the_version_and_refers_to_pages_that_exist() {
    let pages = pages();
    for name in pages.keys() {
        let page = followed(&pages, name);
        let version = env!("CARGO_PKG_VERSION");
        assert!(page.contains(&format!(" 3 \"\" \"kvs {version}\" kvs\n")), "{name}");
        for line in section(page, "\"SEE ALSO\"").lines() {
            let other = line.split(' ').nth(1).expect("a reference has a name");
            assert!(pages.contains_key(other), "{name}: {line}");
        }
    }
}

#[test]
fn the_codes_of_a_function_and_the_environment_are_lists() {
    let pages = pages();
    let put = section(&pages["put_value"], "\"RETURN VALUE\"");
    assert!(put.starts_with("Returns 1, or:\n.TP\n"), "{put}");
    for page in [OVERVIEW, "establish_connection"] {
        let environment = section(&pages[page], "ENVIRONMENT");
        for variable in ["SOCKET", "CALLBACK_SOCKET", "TIMEOUT_MS", "PROTOCOL", "DEBUG"] {
            let tag = format!(".TP\n.B KVS_{variable}\n");
            assert!(environment.contains(&tag), "{page}: {environment}");
        }
    }
    let codes = section(&pages[OVERVIEW], "CODES");
    let lists = |code: &i32| {
        codes.contains(&format!("\\-{code}\n")) || codes.contains(&format!("(\\-{code})\"\n"))
    };
    assert_eq!((1..=19).filter(|code| !lists(code)).count(), 0, "{codes}");
}

#[test]
fn whatis_finds_each_page() {
    if !are_installed(&["lexgrog"], "whatis_finds_each_page") {
        return;
    }
    for page in all_pages() {
        let (_, name) = page.split_once('/').expect("it is in a directory");
        let (name, _) = name.rsplit_once('.').expect("it has a section");
        let output = on_page(&mut Command::new("lexgrog"), &page);
        let found = String::from_utf8_lossy(&output.stdout);
        let line = found.lines().find(|line| line.contains(&format!("\"{name} - ")));
        let summary = line.and_then(|line| line.split_once(" - ")).map(|(_, summary)| summary);
        let summary = summary.unwrap_or_else(|| panic!("{name}: {output:?}")).trim_end_matches('"');
        assert!(summary.starts_with(|c: char| c.is_ascii_lowercase()), "{name}: {summary}");
        assert!(!summary.ends_with('.') && summary.len() < 160, "{name}: {summary}");
    }
}

#[test]
fn a_terminal_of_80_columns_shows_each_page_without_a_warning() {
    if !are_installed(&["groff"], "a_terminal_of_80_columns_shows_each_page_without_a_warning") {
        return;
    }
    for page in all_pages() {
        let groff = &mut Command::new("groff");
        // Of text that is not ASCII it knows with -K.
        shown(&page, &on_page(groff.args(["-man", "-Tutf8", "-Kutf8", "-ww", "-P-cbou"]), &page));
    }
    if !are_installed(&["lexgrog"], "man --warnings") {
        return;
    }
    for page in all_pages() {
        shown(&page, &on_page(Command::new("man").args(["--warnings", "-l"]), &page));
    }
}

#[test]
fn the_pages_of_programs_refer_to_pages_that_exist() {
    let pages = all_pages();
    let mut references = 0;
    for page in pages.iter().filter(|page| !page.starts_with("man3/")) {
        let text = fs::read_to_string(project_dir().join("man").join(page)).expect("it is there");
        for line in text.lines().filter(|line| {
            line.starts_with(".BR kvs ")
                || line.starts_with(".BR KVS-")
                || line.starts_with(".BR kvs.")
        }) {
            let mut words = line.split([' ', '(', ')']).skip(1).filter(|word| !word.is_empty());
            let (Some(name), Some(section)) = (words.next(), words.next()) else { continue };
            references += 1;
            let referred = format!("man{section}/{name}.{section}");
            assert!(pages.contains(&referred), "{page}: {line}");
        }
    }
    assert!(references > 10, "{references} are too few");
}

fn shown(page: &str, output: &Output) {
    let (_, name) = page.rsplit_once('/').unwrap_or(("", page));
    let (name, _) = name.rsplit_once('.').unwrap_or((name, ""));
    assert!(output.status.success() && output.stderr.is_empty(), "{name}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("SYNOPSIS") && text.contains(name), "{name}: {text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{name}: {line}");
    }
}

/// A header with what the real one may have one day.
const OTHER: &str = r#"/*
 * kvs.h - pairs of a test.
 *
 *   cc program.c -lother
 *
 * Threads    Any.
 *
 *            Really any.
 *
 * Codes      These:
 *
 *    -1 one            -2 two
 *    -3 three
 */
#ifndef KVS_H
#define KVS_H

/*
 Not two.
 */
#define KVS_E_TWO -2

#define KVS_BARE (-4)

typedef enum kvs_mode {
  KVS_FAST,
} kvs_mode;

/*
 Another.
 */
enum kvs_other
{
  /*
   The only one.
   */
  KVS_ONLY,
};
typedef int32_t kvs_other;

/*
 .Looks like a request. 'So does this \ and a lone ` with "quotes", umlauts ä.

 - one
   more
 - two

 Returns a handle or NULL, by its mood.
 */
struct kvs_t *kvs_make(kvs_mode mode, kvs_other other, int (*compare)(const void *a, const void *b));

/*
 Frees. e.g. this (see kvs_make): and more.

 Returns 0, or a code as kvs_make does; KVS_E_TWO (-2) when two; -1, -3 else; nothing was done.
 Then it ends. All of it.
 */
int kvs_free(
  void
);

int establish_connection(void);
#endif
"#;

#[test]
fn text_of_any_form_becomes_a_page_without_a_warning() {
    let pages: BTreeMap<_, _> = man::pages(OTHER, "9.9", "int main;\n").into_iter().collect();
    let names: Vec<_> = pages.keys().map(String::as_str).collect();
    assert_eq!(names, ["establish_connection.3", "kvs.3", "kvs_free.3", "kvs_make.3"]);

    let codes = section(&pages["kvs.3"], "CODES");
    let list = ".TP\n.B \\-1\none\n.TP\n.BR KVS_E_TWO \" (\\-2)\"\nNot two.\n.TP\n.B \\-3\nthree\n.TP\n.BR KVS_BARE";
    assert!(codes.contains(list), "{codes}");
    assert!(pages["kvs.3"].contains(".SS Threads\nAny.\n.PP\nReally any.\n"), "{}", pages["kvs.3"]);
    assert!(pages["kvs.3"].contains("\"cc program.c \\-lother\""), "{}", pages["kvs.3"]);

    let free = &pages["kvs_free.3"];
    let returns = section(free, "\"RETURN VALUE\"");
    let list = "Returns 0, or a code as \\fBkvs_make\\fP(3) does; besides:\n.TP\n.B KVS_E_TWO (\\-2)\nwhen two\n\
                .TP\n.B \\-1, \\-3\nelse; nothing was done\n.PP\nThen it ends.\nAll of it.";
    assert_eq!(returns, list);
    assert_eq!(synopsis(free), ["int kvs_free(void);"]);

    let make = &pages["kvs_make.3"];
    assert_eq!(section(make, "\"RETURN VALUE\""), "Returns a handle or NULL, by its mood.");
    let declaration = "struct kvs_t *kvs_make(kvs_mode mode, kvs_other other, int (*compare)(const void *a, const void *b));";
    assert!(synopsis(make).contains(&declaration.to_owned()), "{make}");
    assert!(
        make.contains(".SS kvs_mode\n") && make.contains(".SS kvs_other\nAnother.\n"),
        "{make}"
    );
    assert!(make.contains(".IP \\(bu 3\none more\n.IP \\(bu 3\ntwo\n"), "{make}");

    if !are_installed(&["groff"], "text_of_any_form_becomes_a_page_without_a_warning") {
        return;
    }
    let dir = private_dir();
    for (name, page) in &pages {
        assert!(page.is_ascii(), "{name}");
        let path = dir.path().join(name);
        fs::write(&path, page).expect("the directory is ours");
        let output =
            Command::new("groff").args(["-man", "-Tutf8", "-ww", "-P-cbou"]).arg(path).output();
        let output = output.expect("groff is installed");
        shown(name.trim_end_matches(".3"), &output);
        if name == "kvs_make.3" {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                text.contains(".Looks like a request.") && text.contains("umlauts ä."),
                "{text}"
            );
        }
    }
}
