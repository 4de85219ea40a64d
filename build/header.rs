//! Reads the C header that cbindgen has written: its head comment, and each declaration with the comment before it.
//!
//! Nothing here knows what the text says. A declaration is what ends with `;` outside of braces, or one `#define`.

/// The header, apart.
pub(crate) struct Header {
    pub(crate) head: Head,
    pub(crate) items: Vec<Item>,
}

/// A declaration, on one line unless it has braces, and what is said about it.
pub(crate) struct Item {
    pub(crate) declaration: String,
    pub(crate) doc: Vec<Block>,
}

/// The comment at the top: text, and sections that begin with a term and two spaces or more.
#[derive(Default)]
pub(crate) struct Head {
    pub(crate) text: Vec<Block>,
    pub(crate) sections: Vec<(String, Vec<Block>)>,
}

/// A part of a comment.
#[derive(Clone)]
pub(crate) enum Block {
    /// Without line breaks.
    Paragraph(String),
    /// The entries of a list.
    List(Vec<String>),
    /// What was indented, as it was.
    Code(Vec<String>),
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
            } else if !(line.is_empty()
                || line.starts_with(['#', '}'])
                || line.starts_with("extern \"C\""))
            {
                let declaration = declaration(line, &mut lines);
                items.push(Item { declaration, doc: std::mem::take(&mut doc) });
            }
        }
        Self { head: head.unwrap_or_default(), items }
    }
}

impl Item {
    /// Name and value, if it is a constant.
    pub(crate) fn constant(&self) -> Option<(&str, &str)> {
        let (name, value) = self.declaration.strip_prefix("#define ")?.split_once(' ')?;
        Some((name, value.trim().trim_start_matches('(').trim_end_matches(')')))
    }

    /// The name, if it is a type.
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

    /// The name, if it is a function.
    pub(crate) fn function_name(&self) -> Option<&str> {
        if !self.declaration.ends_with(");") || self.declaration.starts_with("typedef ") {
            return None;
        }
        self.declaration.split('(').next()?.rsplit([' ', '*']).next()
    }
}

impl Head {
    fn parse(lines: &[String]) -> Self {
        let mut head = Self::default();
        let mut section: Option<(String, Vec<String>)> = None;
        let mut text = Vec::new();
        let mut column = usize::MAX;
        for line in lines {
            if let Some((term, rest)) = term(line) {
                head.sections.extend(section.take().map(|(term, lines)| (term, blocks(&lines))));
                column = line.len() - rest.len();
                section = Some((term.to_owned(), vec![rest.to_owned()]));
            } else if let Some((_, lines)) = &mut section {
                // The text of a section stands below its beginning.
                let indented = line.len() - line.trim_start().len() == column;
                lines.push(if indented { line[column..].to_owned() } else { line.clone() });
            } else {
                text.push(line.clone());
            }
        }
        head.sections.extend(section.map(|(term, lines)| (term, blocks(&lines))));
        head.text = blocks(&text);
        head
    }
}

/// A line such as `Threads    Every function`, apart.
fn term(line: &str) -> Option<(&str, &str)> {
    let (term, rest) = line.split_once("  ")?;
    let is_term = line.starts_with(char::is_alphabetic) && !term.ends_with(['.', ':', ';', ',']);
    is_term.then(|| (term, rest.trim_start()))
}

/// The lines of a comment, without what makes it one. `first` has its beginning.
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

/// A declaration to its end.
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

/// With single spaces.
pub(crate) fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Blank lines part blocks.
fn blocks(lines: &[String]) -> Vec<Block> {
    let is_blank = |line: &String| line.trim().is_empty();
    lines.split(is_blank).filter(|lines| !lines.is_empty()).map(block).collect()
}

fn block(lines: &[String]) -> Block {
    if lines.iter().all(|line| line.starts_with("  ")) {
        return Block::Code(lines.to_vec());
    }
    if !lines[0].starts_with("- ") {
        return Block::Paragraph(joined(&lines.join(" ")));
    }
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
    Block::List(entries)
}
