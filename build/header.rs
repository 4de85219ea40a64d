//! A parser for `kvs.h`: the comment at its top, and each declaration with the comment before it.
//!
//! It knows the layout of comments, not their wording. A declaration ends with `;` outside of
//! braces, or is one `#define`. In a comment, blank lines separate blocks, and the indentation says
//! what a block is:
//!
//! ```text
//! A paragraph, from the first column.
//!   term      a row of a table: two spaces, the term, two spaces or more, the text,
//!             which continues with a deeper indentation
//!   term, term
//!             terms that are too long have their text on the next line
//! - an entry of a list
//!     code, indented by four spaces or more
//! ```
//!
//! A comment that is followed by a blank line belongs to no declaration: it is a title in the
//! header.

/// The parsed header.
pub(crate) struct Header {
    pub(crate) head: Head,
    pub(crate) items: Vec<Item>,
}

/// A declaration, on one line unless it has braces, with its documentation.
pub(crate) struct Item {
    pub(crate) declaration: String,
    pub(crate) doc: Vec<Block>,
}

/// The comment at the top: blocks, then sections. A section is a title in the first column with a
/// body that is indented by two spaces.
#[derive(Default)]
pub(crate) struct Head {
    pub(crate) text: Vec<Block>,
    pub(crate) sections: Vec<Section>,
}

/// A section of the comment at the top.
#[derive(Clone)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) body: Vec<Block>,
}

/// A part of a comment.
#[derive(Clone)]
pub(crate) enum Block {
    /// Without line breaks.
    Paragraph(String),
    /// Terms, each with its text.
    Table(Vec<Row>),
    /// The entries of a list.
    List(Vec<String>),
    /// Lines of code, with their indentation.
    Code(Vec<String>),
}

/// A row of a table: `KVS_ERROR_LIMIT  the user's limit is reached`.
#[derive(Clone, Default)]
pub(crate) struct Row {
    pub(crate) term: String,
    pub(crate) text: String,
}

impl Header {
    pub(crate) fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let mut head = None;
        let mut items = Vec::new();
        let mut doc = Vec::new();
        while let Some(line) = lines.next() {
            let line = line.trim_end();
            if line.starts_with("/*") {
                let comment = comment(line, &mut lines);
                if head.is_none() {
                    head = Some(Head::parse(&comment));
                } else {
                    doc = blocks(&comment);
                }
            } else if line.starts_with("#define ") {
                let declaration = line.to_owned();
                items.push(Item { declaration, doc: std::mem::take(&mut doc) });
            } else if line.is_empty() {
                doc.clear();
            } else if !(line.starts_with(['#', '}']) || line.starts_with("extern \"C\"")) {
                let declaration = declaration(line, &mut lines);
                items.push(Item { declaration, doc: std::mem::take(&mut doc) });
            }
        }
        Self { head: head.unwrap_or_default(), items }
    }
}

impl Item {
    /// Name and value, if the item is a constant.
    pub(crate) fn constant(&self) -> Option<(&str, &str)> {
        let (name, value) = self.declaration.strip_prefix("#define ")?.split_once(' ')?;
        Some((name, value.trim().trim_start_matches('(').trim_end_matches(')')))
    }

    /// The name, if the item is a type.
    pub(crate) fn type_name(&self) -> Option<&str> {
        if let Some((before, _)) = self.declaration.split_once('{')
            && !before.starts_with("typedef ")
        {
            return before.split_whitespace().nth(1);
        }
        let body = self.declaration.strip_prefix("typedef ")?.strip_suffix(';')?;
        match body.split_once("(*") {
            Some((_, rest)) => rest.split(')').next(),
            None => body.split([' ', '}', '\n']).next_back(),
        }
    }

    /// The name, if the item is a function.
    pub(crate) fn function_name(&self) -> Option<&str> {
        if !self.declaration.ends_with(");") || self.declaration.starts_with("typedef ") {
            return None;
        }
        self.declaration.split('(').next()?.rsplit([' ', '*']).next()
    }
}

impl Head {
    fn parse(lines: &[String]) -> Self {
        let starts: Vec<usize> = (0..lines.len()).filter(|&at| is_title(lines, at)).collect();
        let first = starts.first().copied().unwrap_or(lines.len());
        let ends = starts.iter().skip(1).copied().chain([lines.len()]);
        let sections = starts.iter().zip(ends).map(|(&start, end)| {
            let body = lines[start + 1..end].iter();
            let body: Vec<_> =
                body.map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned()).collect();
            Section { title: lines[start].clone(), body: blocks(&body) }
        });
        Self { text: blocks(&lines[..first]), sections: sections.collect() }
    }
}

/// Whether the line is the title of a section: it follows a blank line, and an indented one follows
/// it.
fn is_title(lines: &[String], at: usize) -> bool {
    let indentation = |line: &String| line.len() - line.trim_start().len();
    at > 0
        && lines[at - 1].trim().is_empty()
        && lines[at].starts_with(char::is_alphabetic)
        && !lines[at].ends_with(['.', ':', ';', ','])
        && lines.get(at + 1).is_some_and(|next| !next.trim().is_empty() && indentation(next) == 2)
}

/// The lines of a comment without its delimiters and its left border. `first` is its first line.
fn comment<'a>(first: &'a str, lines: &mut impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut comment = Vec::new();
    let mut line = first.strip_prefix("/*").unwrap_or(first).trim_start_matches('*');
    loop {
        let (text, is_last) = match line.split_once("*/") {
            Some((text, _)) => (text, true),
            None => (line, false),
        };
        let text = text.strip_prefix(" *").unwrap_or(text);
        comment.push(text.strip_prefix(' ').unwrap_or(text).trim_end().to_owned());
        if is_last {
            return comment;
        }
        let Some(next) = lines.next() else { return comment };
        line = next;
    }
}

/// A whole declaration. `first` is its first line.
fn declaration<'a>(first: &'a str, lines: &mut impl Iterator<Item = &'a str>) -> String {
    let (mut whole, mut line) = (String::new(), first);
    loop {
        whole.push_str(line.trim_end());
        let is_open = whole.matches('{').count() > whole.matches('}').count();
        if whole.ends_with(';') && !is_open {
            break;
        }
        let Some(next) = lines.next() else { break };
        whole.push('\n');
        line = next;
    }
    if whole.contains('{') { whole } else { joined(&whole) }
}

/// The words of a text with single spaces between them.
pub(crate) fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn blocks(lines: &[String]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let is_blank = |line: &String| line.trim().is_empty();
    for lines in lines.split(is_blank).filter(|lines| !lines.is_empty()) {
        // A table may follow its paragraph without a blank line.
        let is_row = |line: &String| line.starts_with("  ");
        let end = if is_row(&lines[0]) || lines[0].starts_with("- ") {
            0
        } else {
            lines.iter().position(is_row).unwrap_or(lines.len())
        };
        let (paragraph, rest) = lines.split_at(end);
        if !paragraph.is_empty() {
            blocks.push(Block::Paragraph(joined(&paragraph.join(" "))));
        }
        if !rest.is_empty() {
            blocks.push(block(rest));
        }
    }
    blocks
}

/// A block that is not a paragraph.
fn block(lines: &[String]) -> Block {
    if lines.iter().all(|line| line.starts_with("    ")) {
        return Block::Code(lines.to_vec());
    }
    if lines[0].starts_with("- ") {
        return Block::List(list(lines));
    }
    Block::Table(table(lines))
}

fn list(lines: &[String]) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for line in lines {
        match (line.strip_prefix("- "), entries.last_mut()) {
            (None, Some(entry)) => {
                entry.push(' ');
                entry.push_str(line.trim());
            }
            (begins, _) => entries.push(begins.unwrap_or(line).to_owned()),
        }
    }
    entries
}

fn table(lines: &[String]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in lines {
        let starts_row = !line.starts_with("   ");
        let (term, text) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
        match rows.last_mut() {
            Some(row) if !starts_row => row.text = joined(&format!("{} {line}", row.text)),
            // Terms over several lines.
            Some(row) if row.term.ends_with(',') && row.text.is_empty() => {
                row.term.push_str(&format!(" {term}"));
                row.text = joined(text);
            }
            _ => rows.push(Row { term: term.to_owned(), text: joined(text) }),
        }
    }
    rows
}
