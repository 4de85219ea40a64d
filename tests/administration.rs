//! Runs what administrators read: `docs/ADMINISTRATION.md` and the examples of the programs' manual
//! pages. They run on containers with a systemd each (`kvs-testkit/src/machine`), a network between
//! them, and the Debian package.
//!
//! The first line of a code block and the text before it say what the block is. A reader does not
//! see the words after the language there.
//!
//! - A block other than `text` after text that ends with a file name in backticks and a colon: the
//!   test writes it to that file.
//! - `sh`: the test runs it as root, and it must succeed.
//! - `text`: the output of the block before. A block without one may print anything.
//!
//! A block runs on the machine of the block before, unless it names one: `machine=1`. In expected
//! output, `…` within a line stands for any text, and on a line of its own for any number of lines.
//!
//! In an example of a manual page, a line that begins with `# ` is a command, and the lines after
//! it are its output.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;

use kvs_testkit::{
    CodeBlock, MACHINE_TOOLS, Machine, Network, are_installed, code_blocks, project_dir, skipped,
};

const PAGE: &str = "docs/ADMINISTRATION.md";

#[test]
fn administration_page_works_as_written() {
    let page = fs::read_to_string(project_dir().join(PAGE)).expect("the page exists");
    let blocks = code_blocks(&page);
    let machine_of = |block: &CodeBlock| {
        let (name, number) = block.marker.as_ref()?;
        assert_eq!(name, "machine", "{PAGE}:{}: no such marker", block.line);
        Some(number.parse().unwrap_or_else(|_| panic!("{PAGE}:{}: {number:?}", block.line)))
    };
    let count = blocks.iter().filter_map(machine_of).max().expect("the page names its machines");
    if !are_installed(&MACHINE_TOOLS, "a page on machines of its own") {
        return;
    }
    let network = match Network::new(count) {
        Ok(network) => network,
        Err(why) => return skipped("a page on machines of its own", &why),
    };
    let mut machines = BTreeMap::new();
    for number in 1..=count {
        match Machine::with_package(Some((&network, number))) {
            Ok(machine) => machines.insert(number, machine),
            Err(why) => return skipped("a page on machines of its own", &why),
        };
    }

    let mut current = 1;
    let mut at = 0;
    while let Some(block) = blocks.get(at) {
        let location = format!("{PAGE}:{}", block.line);
        println!("{location}: {}", block.language);
        current = machine_of(block).unwrap_or(current);
        let machine = machines.get_mut(&current).expect("all machines are running");
        at += 1;
        match (block.file.as_deref(), block.language.as_str()) {
            (Some(file), language) if language != "text" => {
                let input = machine.write_file("file", &block.text);
                let (status, shown) = machine.run(&format!("cat {} > '{file}'", input.display()));
                assert_eq!(status, 0, "{location}: {shown:#?}");
            }
            (None, "sh") => {
                let (status, shown) = machine.run(&block.text);
                assert_eq!(status, 0, "{location}: {shown:#?}");
                if let Some(next) = blocks.get(at).filter(|next| next.language == "text") {
                    at += 1;
                    let expected: Vec<&str> = next.text.lines().collect();
                    assert!(
                        lines_match(&expected, &shown),
                        "{PAGE}:{}: unexpected output: {shown:#?}",
                        next.line
                    );
                }
            }
            (file, language) => panic!("{location}: `{language}`, {file:?}: unknown kind of block"),
        }
    }
}

#[test]
fn manual_page_examples_work_as_written() {
    if !are_installed(&MACHINE_TOOLS, "a page on machines of its own") {
        return;
    }
    let mut machine = match Machine::with_package(None) {
        Ok(machine) => machine,
        Err(why) => return skipped("a page on machines of its own", &why),
    };
    let (status, shown) = machine.run("dpkg --install kvs_*.deb");
    assert_eq!(status, 0, "{shown:#?}");
    let mut examples = 0;
    for section in ["man1", "man5", "man8"] {
        for page in fs::read_dir(project_dir().join("man").join(section)).expect("there are pages")
        {
            let path = page.expect("it can be listed").path();
            let text = fs::read_to_string(&path).expect("it can be read");
            for (line, example) in examples_of(&text) {
                println!("{}:{line}", path.display());
                let commands = commands_of(&example);
                if commands.is_empty() {
                    // An example without commands is a configuration file.
                    let file = machine.write_file("file.toml", &example.join("\n"));
                    let check = "KVS-LocalServer --check-config --config";
                    let (status, shown) = machine.run(&format!("{check} {}", file.display()));
                    assert_eq!(status, 0, "{}:{line}: {shown:#?}", path.display());
                }
                for (command, expected) in commands {
                    examples += 1;
                    let (status, shown) = machine.run(&command);
                    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
                    assert!(
                        lines_match(&expected, &shown),
                        "{}:{line}: {command}: status {status}, {shown:#?}",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(examples >= 10, "{examples} examples are too few");
}

/// Whether the output matches the lines of a page.
fn lines_match(expected: &[&str], shown: &[String]) -> bool {
    match expected.split_first() {
        None => shown.is_empty(),
        Some((&"…", rest)) => {
            (0..=shown.len()).any(|skipped| lines_match(rest, &shown[skipped..]))
        }
        Some((line, rest)) => shown.split_first().is_some_and(|(first, others)| {
            line_matches(line, first.trim_end()) && lines_match(rest, others)
        }),
    }
}

/// Whether a line matches a pattern in which `…` stands for any text.
fn line_matches(expected: &str, line: &str) -> bool {
    match expected.split_once('…') {
        None => expected == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            let starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            starts.into_iter().any(|at| line_matches(after, &rest[at..]))
        }),
    }
}

/// The examples of a manual page as they are displayed, each with the number of its first line.
fn examples_of(page: &str) -> Vec<(usize, Vec<String>)> {
    let mut examples = Vec::new();
    let mut open: Option<(usize, Vec<String>)> = None;
    for (line, number) in page.lines().zip(1..) {
        match (line, &mut open) {
            (".EX", None) => open = Some((number, Vec::new())),
            (".EE", Some(_)) => examples.extend(open.take()),
            (line, Some((_, lines))) => lines.push(displayed(line)),
            _ => {}
        }
    }
    assert!(open.is_none(), "an example has no end");
    examples
}

/// A line of an example as it is displayed.
fn displayed(line: &str) -> String {
    line.replace("\\&", "")
        .replace("\\-", "-")
        .replace("\\(aq", "'")
        .replace("\\[u2026]", "…")
        .replace("\\e", "\\")
}

/// The commands of an example, each with its output.
fn commands_of(example: &[String]) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in example {
        match (line.strip_prefix("# "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
            (None, Some((_, shown))) => shown.push(line.clone()),
            (None, None) => return Vec::new(),
        }
    }
    commands
}

#[test]
fn shown_lines_match_patterns() {
    let shown = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(lines_match(&["a … c", "…", "z"], &shown(&["a b c", "x", "y", "z"])));
    assert!(lines_match(&["…", "z"], &shown(&["z"])));
    assert!(!lines_match(&["a … c"], &shown(&["a b d"])));
    assert!(!lines_match(&["a"], &shown(&["a", "b"])));
    assert!(!lines_match(&["a", "b"], &shown(&["a"])));
    assert!(!lines_match(&[], &shown(&["a"])));
}
