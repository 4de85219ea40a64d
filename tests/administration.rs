//! What administrators read, followed to the letter: `docs/ADMINISTRATION.md` and the examples of the programs' manual
//! pages, on machines of their own with a systemd each (`kvs-testkit/src/machine`), a network between them, and the Debian package.
//!
//! What a block of the page is, its first line says, and the text before it. What follows the language there, no reader sees.
//!
//! | block | what is done with it |
//! |---|---|
//! | any but `text`, after text that ends with a file's name in backticks and a colon | it is written to that file |
//! | `sh` | root runs it; it must end well |
//! | `text` | the block before shows these lines, and no others; what it shows without one may be anything |
//!
//! Each is done on the machine of the block before, unless it names one: `machine=1`. In what is shown, `…` in a line stands for
//! anything there, and as a line of its own for any lines.
//!
//! In a manual page, what begins with `# ` in an example is run, and the lines after it are what it shows.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;

use kvs_testkit::{
    CodeBlock, MACHINE_TOOLS, Machine, Network, are_installed, code_blocks, project_dir, skipped,
};

const PAGE: &str = "docs/ADMINISTRATION.md";

#[test]
fn the_page_for_administrators_works_as_it_is_written() {
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
        let place = format!("{PAGE}:{}", block.line);
        println!("{place}: {}", block.language);
        current = machine_of(block).unwrap_or(current);
        let machine = machines.get_mut(&current).expect("they were all switched on");
        at += 1;
        match (block.file.as_deref(), block.language.as_str()) {
            (Some(file), language) if language != "text" => {
                let handed_in = machine.write_file("file", &block.text);
                let (status, shown) =
                    machine.run(&format!("cat {} > '{file}'", handed_in.display()));
                assert_eq!(status, 0, "{place}: {shown:#?}");
            }
            (None, "sh") => {
                let (status, shown) = machine.run(&block.text);
                assert_eq!(status, 0, "{place}: {shown:#?}");
                if let Some(next) = blocks.get(at).filter(|next| next.language == "text") {
                    at += 1;
                    let expected: Vec<&str> = next.text.lines().collect();
                    assert!(
                        is_shown(&expected, &shown),
                        "{PAGE}:{}: not what is shown: {shown:#?}",
                        next.line
                    );
                }
            }
            (file, language) => panic!("{place}: `{language}`, {file:?}: neither run nor written"),
        }
    }
}

#[test]
fn the_examples_of_the_manual_pages_work_as_they_are_written() {
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
                    // Then it is a file.
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
                        is_shown(&expected, &shown),
                        "{}:{line}: {command}: status {status}, {shown:#?}",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(examples >= 10, "{examples} examples are too few");
}

/// Whether these are the lines that a page shows.
fn is_shown(expected: &[&str], shown: &[String]) -> bool {
    match expected.split_first() {
        None => shown.is_empty(),
        Some((&"…", rest)) => (0..=shown.len()).any(|skipped| is_shown(rest, &shown[skipped..])),
        Some((line, rest)) => shown.split_first().is_some_and(|(first, others)| {
            is_like(line, first.trim_end()) && is_shown(rest, others)
        }),
    }
}

/// Whether a line is the expected one, in which `…` may be anything.
fn is_like(expected: &str, line: &str) -> bool {
    match expected.split_once('…') {
        None => expected == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            let starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            starts.into_iter().any(|at| is_like(after, &rest[at..]))
        }),
    }
}

/// The examples of a manual page, each with the number of its first line, as they are printed.
fn examples_of(page: &str) -> Vec<(usize, Vec<String>)> {
    let mut examples = Vec::new();
    let mut open: Option<(usize, Vec<String>)> = None;
    for (line, number) in page.lines().zip(1..) {
        match (line, &mut open) {
            (".EX", None) => open = Some((number, Vec::new())),
            (".EE", Some(_)) => examples.extend(open.take()),
            (line, Some((_, lines))) => lines.push(printed(line)),
            _ => {}
        }
    }
    assert!(open.is_none(), "an example has no end");
    examples
}

/// A line of an example as it is printed.
fn printed(line: &str) -> String {
    line.replace("\\&", "")
        .replace("\\-", "-")
        .replace("\\(aq", "'")
        .replace("\\[u2026]", "…")
        .replace("\\e", "\\")
}

/// The commands of an example, each with what it shows.
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
fn what_is_shown_is_compared() {
    let shown = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(is_shown(&["a … c", "…", "z"], &shown(&["a b c", "x", "y", "z"])));
    assert!(is_shown(&["…", "z"], &shown(&["z"])));
    assert!(!is_shown(&["a … c"], &shown(&["a b d"])));
    assert!(!is_shown(&["a"], &shown(&["a", "b"])));
    assert!(!is_shown(&["a", "b"], &shown(&["a"])));
    assert!(!is_shown(&[], &shown(&["a"])));
}
