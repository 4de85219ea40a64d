//! The manual pages: `man`, `whatis` and groff accept them, references lead to existing pages, and
//! each C function has a page with the prototype of the header. Also the pages that `build/man.rs`
//! makes of forms of text that the header does not have now.

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

/// The page about the library as a whole.
const OVERVIEW: &str = "kvs";

/// The functions that the header declares, with their prototypes. Independent of `build/header.rs`.
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

/// The texts of all pages in `man/man3` by their names. `packaging/install` installs all of them.
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

/// The page itself, or the page that it leads to with `.so`.
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

/// The declarations of a synopsis without fonts.
fn synopsis(page: &str) -> Vec<String> {
    let mut code = String::new();
    for line in section(page, "SYNOPSIS").lines().take_while(|line| *line != ".fi") {
        let Some((request, rest)) = line.split_once(' ') else { continue };
        assert!(request == ".B" || request == ".BI", "{line}");
        if rest.starts_with('#') {
            continue;
        }
        // Outside of quotes a space separates two fonts and is not printed.
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
fn each_function_of_the_header_has_a_page() {
    let declared = declared();
    assert!(declared.contains_key("put_value") && declared.contains_key("kvs_put"));
    let mut expected: BTreeSet<_> = declared.into_keys().collect();
    expected.insert(OVERVIEW.to_owned());
    assert_eq!(pages().into_keys().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn synopsis_has_the_prototype_of_the_header() {
    let pages = pages();
    for (name, prototype) in declared() {
        let synopsis = synopsis(followed(&pages, &name));
        assert!(synopsis.contains(&prototype), "{name}: {prototype} is not in {synopsis:#?}");
    }
}

#[test]
fn page_has_version_and_references_existing_pages() {
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
fn errors_and_environment_variables_are_listed_by_name() {
    let pages = pages();
    let put = section(&pages["put_value"], "\"RETURN VALUE\"");
    let list = "Returns 1 when the value is stored, or\n.TP\n.B KVS_ERROR_NOT_CONNECTED\n";
    assert!(put.starts_with(list), "{put}");
    assert!(section(&pages["put_value"], "PARAMETERS").contains(".TP\n.B key\n"));
    for page in [OVERVIEW, "establish_connection", "kvs_open"] {
        let environment = section(&pages[page], "ENVIRONMENT");
        for variable in ["SOCKET", "CALLBACK_SOCKET", "TIMEOUT_MS", "PROTOCOL", "DEBUG"] {
            let tag = format!(".TP\n.B KVS_{variable}\n");
            assert!(environment.contains(&tag), "{page}: {environment}");
        }
    }
    let errors = section(&pages[OVERVIEW], "ERRORS");
    let is_missing = |code: &i32| !errors.contains(&format!("(\\-{code})\"\n"));
    assert_eq!((1..=19).filter(is_missing).count(), 0, "{errors}");
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
fn each_page_fits_80_columns_without_a_warning() {
    if !are_installed(&["groff"], "each_page_fits_80_columns_without_a_warning") {
        return;
    }
    for page in all_pages() {
        let groff = &mut Command::new("groff");
        // -K says how text that is not ASCII is encoded.
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
fn pages_of_programs_reference_existing_pages() {
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

/// A header with forms of text and declarations that the real one does not have now.
const OTHER: &str = r#"/*
 * kvs.h - pairs of a test.
 *
 * Text.
 *
 *     code();
 *
 * Threads
 *   Any.
 *
 *   Really any.
 *
 * Environment
 *   Read once.
 *
 *     KVS_A    the first
 *     KVS_BCD  the second,
 *              wrapped
 *
 * Errors
 *   These:
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

/* A title, not documentation --- */

int establish_connection(void);

/*
 * .Looks like a request. 'So does this \ and a lone ` with "quotes", umlauts ä.
 *
 * - one
 *   more
 * - two
 *
 *   mode  how
 *   other, compare
 *         with what, and whether the text
 *         goes on
 *
 * Returns a handle or NULL, depending on the mode.
 */
struct kvs_t *kvs_make(kvs_mode mode, kvs_other other,
                       int (*compare)(const void *a, const void *b));

/*
 Frees. e.g. this (see kvs_make): and more.

 Returns 0, or an error of kvs_make, or
   KVS_E_TWO  when two
   KVS_BARE, KVS_E_ONE,
   KVS_E_THREE
              else; nothing was done

 Then it ends. All of it.
 */
int kvs_free(
  void
);
#endif
"#;

#[test]
fn comment_of_any_form_becomes_a_page() {
    let pages: BTreeMap<_, _> = man::pages(OTHER, "9.9", "int main;\n").into_iter().collect();
    let names: Vec<_> = pages.keys().map(String::as_str).collect();
    assert_eq!(names, ["establish_connection.3", "kvs.3", "kvs_free.3", "kvs_make.3"]);

    let kvs = &pages["kvs.3"];
    let errors = section(kvs, "ERRORS");
    let list = "These:\n.TP\n.BR KVS_E_TWO \" (\\-2)\"\nNot two.\n\
                .TP\n.BR KVS_BARE \" (\\-4)\"";
    assert_eq!(errors, list);
    assert!(kvs.contains(".SS Threads\nAny.\n.PP\nReally any.\n"), "{kvs}");
    assert!(kvs.contains("Text.\n.PP\n.in +4n\n.EX\ncode();\n.EE\n"), "{kvs}");
    for page in ["kvs.3", "establish_connection.3"] {
        let list = "Read once.\n.TP\n.B KVS_A\nthe first\n.TP\n.B KVS_BCD\nthe second, wrapped";
        assert_eq!(section(&pages[page], "ENVIRONMENT").trim_end(), list, "{page}");
    }
    assert!(!pages["establish_connection.3"].contains("A title"));

    let free = &pages["kvs_free.3"];
    let returns = section(free, "\"RETURN VALUE\"");
    let list = "Returns 0, or an error of \\fBkvs_make\\fP(3), or\n\
                .TP\n.B KVS_E_TWO\nwhen two\n\
                .TP\n.B KVS_BARE,\n.TQ\n.B KVS_E_ONE,\n.TQ\n.B KVS_E_THREE\nelse; nothing was done";
    assert_eq!(returns, list);
    assert_eq!(section(free, "NOTES"), "Then it ends.\nAll of it.");
    assert_eq!(synopsis(free), ["int kvs_free(void);"]);

    let make = &pages["kvs_make.3"];
    assert_eq!(
        section(make, "\"RETURN VALUE\""),
        "Returns a handle or NULL, depending on the mode."
    );
    let declaration = "struct kvs_t *kvs_make(kvs_mode mode, kvs_other other, \
                       int (*compare)(const void *a, const void *b));";
    assert!(synopsis(make).contains(&declaration.to_owned()), "{make}");
    assert!(
        make.contains(".SS kvs_mode\n") && make.contains(".SS kvs_other\nAnother.\n"),
        "{make}"
    );
    assert!(make.contains(".IP \\(bu 3\none more\n.IP \\(bu 3\ntwo\n"), "{make}");
    let table = ".TP\n.B mode\nhow\n\
                 .TP\n.B other,\n.TQ\n.B compare\nwith what, and whether the text goes on";
    assert_eq!(section(make, "PARAMETERS"), table);

    if !are_installed(&["groff"], "comment_of_any_form_becomes_a_page") {
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
