//! The subset of roff that the pages use: escapes, fonts, and prototypes in a synopsis.

use std::collections::BTreeSet;

use crate::header::joined;

/// The width of a terminal less the margin of a page.
const WIDTH: usize = 71;

/// The longest line of text in the source of a page, without the escape at its beginning.
const LINE: usize = 78;

/// Escapes text that is printed literally: a hyphen is a minus.
pub(crate) fn literal(text: &str) -> String {
    escaped(text).replace('-', "\\-")
}

/// Escapes prose: a hyphen stays a hyphen.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '"' => out.push_str("\\(dq"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '`' => out.push_str("\\(ga"),
            '\'' => out.push_str("\\(aq"),
            c if c.is_ascii() => out.push(c),
            c => out.push_str(&format!("\\[u{:04X}]", u32::from(c))),
        }
    }
    out
}

/// Escapes the beginning of a line that roff would take for a request.
pub(crate) fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

/// A block of code.
pub(crate) fn example(lines: &[String]) -> String {
    let margin = |line: &String| line.len() - line.trim_start().len();
    let lines_with_text = lines.iter().filter(|line| !line.trim().is_empty());
    let common = lines_with_text.map(margin).min().unwrap_or(0);
    let mut out = String::from(".PP\n.in +4n\n.EX\n");
    for line in lines {
        out.push_str(&guarded(&literal(line.get(common..).unwrap_or(""))));
        out.push('\n');
    }
    out.push_str(".EE\n.in\n");
    out
}

/// Which words of a text are set in bold.
pub(crate) struct Style<'a> {
    /// The functions that have a page.
    pub(crate) functions: &'a BTreeSet<&'a str>,
    /// The functions of this page, which get no `(3)`.
    pub(crate) own: &'a [&'a str],
    /// Types and constants.
    pub(crate) names: &'a BTreeSet<&'a str>,
}

impl Style<'_> {
    /// A paragraph. Each sentence begins a line, and long lines are wrapped.
    pub(crate) fn text(&self, paragraph: &str) -> String {
        let mut out = String::new();
        for sentence in sentences(paragraph) {
            let mut line = String::new();
            for word in self.inline(sentence).split(' ') {
                if !line.is_empty() && line.len() + 1 + word.len() > LINE {
                    out.push_str(&format!("{}\n", guarded(&line)));
                    line.clear();
                }
                let space = if line.is_empty() { "" } else { " " };
                line.push_str(&format!("{space}{word}"));
            }
            out.push_str(&format!("{}\n", guarded(&line)));
        }
        out
    }

    /// Sets `code` in backticks and the names of this library in bold.
    fn inline(&self, text: &str) -> String {
        let mut out = String::new();
        let mut parts = text.split('`');
        if let Some(first) = parts.next() {
            self.prose(first, &mut out);
        }
        while let Some(code) = parts.next() {
            match parts.next() {
                Some(prose) => {
                    self.bold(code, prose, &mut out);
                    self.prose(prose, &mut out);
                }
                // A single backtick.
                None => out.push_str(&escaped(&format!("`{code}"))),
            }
        }
        out
    }

    /// Sets a word in bold. `next` is the text after it.
    fn bold(&self, word: &str, next: &str, out: &mut String) {
        out.push_str(&format!("\\fB{}\\fP", literal(word)));
        if self.functions.contains(word) && !self.own.contains(&word) && !next.starts_with('(') {
            out.push_str("(3)");
        }
    }

    fn prose(&self, mut text: &str, out: &mut String) {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        while let Some(c) = text.chars().next() {
            let length = text.find(|c| !is_word(c)).unwrap_or(text.len());
            if length == 0 {
                let next = text.chars().nth(1).unwrap_or(' ');
                match c {
                    '-' if !next.is_alphabetic() => out.push_str("\\-"),
                    '\'' => out.push(c),
                    _ => out.push_str(&escaped(c.encode_utf8(&mut [0; 4]))),
                }
                text = &text[c.len_utf8()..];
                continue;
            }
            let (word, rest) = text.split_at(length);
            let is_variable = word.len() > 4
                && word.starts_with("KVS_")
                && !word.contains(|c: char| c.is_ascii_lowercase());
            let is_manual = rest.starts_with("(2)") || rest.starts_with("(3)");
            if self.functions.contains(word)
                || self.names.contains(word)
                || is_variable
                || is_manual
            {
                self.bold(word, rest, out);
            } else {
                out.push_str(word);
            }
            text = rest;
        }
    }
}

/// Splits a paragraph into sentences.
fn sentences(paragraph: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (at, _) in paragraph.match_indices(' ') {
        let before = paragraph[..at].trim_end_matches([')', '"']);
        let is_short = ["e.g.", "i.e."].iter().any(|word| before.ends_with(word));
        if before.ends_with('.') && !is_short {
            sentences.push(&paragraph[start..at]);
            start = at + 1;
        }
    }
    sentences.push(&paragraph[start..]);
    sentences
}

/// A prototype for a synopsis: bold, the names of parameters italic, wrapped at the width of a
/// terminal.
pub(crate) fn prototype(declaration: &str) -> String {
    let Some((before, parameters)) = parameters(declaration) else {
        return format!(".B {}\n", quoted(declaration));
    };
    let mut out = String::new();
    // The parts of a line, alternately bold and italic.
    let mut parts = vec![before.to_owned()];
    let mut width = before.len();
    for (n, parameter) in parameters.iter().enumerate() {
        let end = if n + 1 == parameters.len() { ");" } else { "," };
        let length = parameter.len() + end.len();
        if n > 0 && width + 1 + length > WIDTH {
            out.push_str(&alternating(&parts));
            parts = vec![" ".repeat(before.len())];
            width = before.len();
        } else if n > 0 {
            add(&mut parts, " ");
            width += 1;
        }
        let (kind, name, rest) = parameter_name(parameter);
        add(&mut parts, kind);
        if !name.is_empty() {
            parts.push(name.to_owned());
            parts.push(rest.to_owned());
        }
        add(&mut parts, end);
        width += length;
    }
    out.push_str(&alternating(&parts));
    out
}

fn add(parts: &mut [String], text: &str) {
    if let Some(last) = parts.last_mut() {
        last.push_str(text);
    }
}

fn alternating(parts: &[String]) -> String {
    let request = if parts.len() == 1 { ".B" } else { ".BI" };
    let parts: Vec<_> = parts.iter().map(|part| quoted(part)).collect();
    format!("{request} {}\n", parts.join(" "))
}

fn quoted(text: &str) -> String {
    let text = literal(text);
    if text.is_empty() || text.contains(' ') { format!("\"{text}\"") } else { text }
}

/// Splits a prototype into the text up to the parenthesis and its parameters.
pub(crate) fn parameters(declaration: &str) -> Option<(&str, Vec<String>)> {
    let body = declaration.strip_suffix(");")?;
    let mut depth = 1;
    let open = body.char_indices().rev().find(|(_, c)| {
        depth += match c {
            ')' => 1,
            '(' => -1,
            _ => 0,
        };
        depth == 0
    });
    let (before, inside) = body.split_at(open?.0 + 1);
    let mut parameters = vec![String::new()];
    let mut depth = 0;
    for c in inside.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parameters.push(String::new());
        } else {
            add(&mut parameters, c.encode_utf8(&mut [0; 4]));
        }
    }
    Some((before, parameters.iter().map(|parameter| joined(parameter)).collect()))
}

/// Splits a parameter into the text before its name, the name, and the text after it.
fn parameter_name(parameter: &str) -> (&str, &str, &str) {
    let (start, end) = match parameter.find("(*") {
        Some(at) => {
            let end = parameter[at..].find(')').map_or(parameter.len(), |length| at + length);
            (at + 2, end)
        }
        None => (parameter.rfind([' ', '*']).map_or(parameter.len(), |at| at + 1), parameter.len()),
    };
    (&parameter[..start], &parameter[start..end], &parameter[end..])
}
