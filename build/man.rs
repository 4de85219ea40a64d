//! Manual pages from the header: one for each function, and kvs(3) from the comment at its top.
//!
//! What a page says is what the header says. A paragraph that begins with "Returns" becomes RETURN VALUE, its codes
//! ("…: -2 not connected; -3 -4 the connection broke") a list; what comes after it is about the arguments. What
//! establish_connection says of the environment ("`KVS_SOCKET` (path of …), …") becomes ENVIRONMENT. Where text has
//! another form, it stays text: no wording makes the build fail.

use std::collections::BTreeSet;

use crate::header::{Block, Head, Header, Item};
use crate::roff::{Style, example, guarded, literal, parameters, prototype};

/// The first line of each page, by which a page of this generator is known.
pub(crate) const MARK: &str =
    ".\\\" Generated from the comments in kvs-lib/src/capi; changes belong there.\n";

/// The function whose text has the environment.
const CONNECT: &str = "establish_connection";

/// The files of a page and of those that lead to it, with their names. `text` is the header, `program` the example.
pub(crate) fn pages(text: &str, version: &str, program: &str) -> Vec<(String, String)> {
    let header = Header::parse(text);
    Manual::of(&header, version).pages(program)
}

struct Manual<'a> {
    header: &'a Header,
    version: &'a str,
    functions: BTreeSet<&'a str>,
    names: BTreeSet<&'a str>,
    environment: Option<Environment>,
}

/// One function.
#[derive(Clone, Copy)]
struct Function<'a> {
    name: &'a str,
    item: &'a Item,
}

impl<'a> Manual<'a> {
    fn of(header: &'a Header, version: &'a str) -> Self {
        let items = header.items.iter();
        let functions = items.clone().filter_map(Item::function_name).collect();
        let constants = items.clone().filter_map(|item| Some(item.constant()?.0));
        let names = constants.chain(items.filter_map(Item::type_name)).collect();
        let mut manual = Self { header, version, functions, names, environment: None };
        let connect = manual.all().find(|function| function.name == CONNECT);
        manual.environment =
            connect.and_then(|connect| paragraphs(&connect.item.doc).find_map(Environment::parse));
        manual
    }

    fn all(&self) -> impl Iterator<Item = Function<'a>> + use<'a> {
        let function = |item: &'a Item| Some(Function { name: item.function_name()?, item });
        self.header.items.iter().filter_map(function)
    }

    fn pages(&self, program: &str) -> Vec<(String, String)> {
        let mut pages = vec![("kvs.3".to_owned(), self.overview(program))];
        for function in self.all() {
            let place = self.place(function.name);
            let page = if place == function.name {
                let together: Vec<_> =
                    self.all().filter(|other| self.place(other.name) == place).collect();
                self.page(&together)
            } else {
                format!(".so man3/{place}.3\n")
            };
            pages.push((format!("{}.3", function.name), page));
        }
        pages
    }

    /// The function on whose page this one is: `kvs_watch_prefix` is on that of `kvs_watch`.
    fn place(&self, name: &'a str) -> &'a str {
        let base = name.strip_suffix("_prefix").unwrap_or(name);
        if self.functions.contains(base) { base } else { name }
    }

    fn style<'b>(&'b self, own: &'b [&'b str]) -> Style<'b> {
        Style { functions: &self.functions, own, names: &self.names }
    }

    fn beginning(&self, names: &[&str], summary: &str) -> String {
        let names = names.join(", ");
        let title = names.split(',').next().unwrap_or(&names);
        let (version, summary) = (self.version, literal(summary));
        format!(
            "{MARK}.TH {title} 3 \"\" \"kvs {version}\" kvs\n.ad l\n.nh\n.SH NAME\n{names} \\- {summary}\n\
             .SH SYNOPSIS\n.nf\n.B #include <kvs.h>\n.PP\n"
        )
    }

    fn page(&self, functions: &[Function<'a>]) -> String {
        let names: Vec<_> = functions.iter().map(|function| function.name).collect();
        let style = self.style(&names);
        let summary = functions.first().map(Function::summary).unwrap_or_default();
        let mut page = self.beginning(&names, &summary);
        let types = self.types(functions);
        for item in &types {
            if parameters(&item.declaration).is_some() {
                page.push_str(&prototype(&item.declaration));
                page.push_str(".PP\n");
            }
        }
        for function in functions {
            page.push_str(&prototype(&function.item.declaration));
        }
        page.push_str(&self.link());

        page.push_str(".SH DESCRIPTION\n");
        let several = functions.len() > 1;
        for function in functions {
            if several {
                page.push_str(&format!(".SS {}()\n", function.name));
            }
            let description = function.description(self.environment.as_ref());
            page.push_str(&blocks(&style, &description));
            let arguments = function.arguments();
            if !arguments.is_empty() {
                page.push_str(if several { ".PP\n" } else { ".SS Arguments\n" });
                page.push_str(&blocks(&style, arguments));
            }
        }
        for item in types {
            page.push_str(&format!(".SS {}\n", item.type_name().unwrap_or_default()));
            page.push_str(&blocks(&style, &item.doc));
            if item.declaration.contains('{') {
                page.push_str(&example(&structure(&item.declaration)));
            }
        }

        let returns: Vec<_> = functions
            .iter()
            .filter_map(|function| Some((function.name, function.returns()?)))
            .collect();
        if !returns.is_empty() {
            page.push_str(".SH \"RETURN VALUE\"\n");
        }
        for (name, paragraph) in &returns {
            if several {
                page.push_str(&format!(".SS {name}()\n"));
            }
            page.push_str(&self.return_value(&style, paragraph));
        }
        if let Some(environment) = self.environment.as_ref().filter(|_| names.contains(&CONNECT)) {
            page.push_str(&environment.section(&style));
        }
        page.push_str(&self.see_also(&names));
        page
    }

    /// How a program is linked: the first indented lines of the header, and pkg-config.
    fn link(&self) -> String {
        let code = self.header.head.text.iter().find_map(|block| match block {
            Block::Code(lines) => lines.first(),
            _ => None,
        });
        let line = code.map_or("cc program.c -lkvs", |line| line.trim());
        format!(
            ".fi\n.PP\nLink with\n.BR \"{}\" ,\nor with what\n.B pkg\\-config \\-\\-cflags \\-\\-libs kvs\nprints.\n",
            literal(line)
        )
    }

    /// The types that the functions take, but those about which nothing is to be known.
    fn types(&self, functions: &[Function<'_>]) -> Vec<&'a Item> {
        let is_used = |item: &&Item| {
            let Some(name) = item.type_name() else { return false };
            item.declaration.contains(['{', '('])
                && functions
                    .iter()
                    .any(|function| words(&function.item.declaration).any(|word| word == name))
        };
        self.header.items.iter().filter(is_used).collect()
    }

    fn return_value(&self, style: &Style<'_>, paragraph: &str) -> String {
        let Some(returns) = Returns::parse(paragraph, &|word| self.is_code(word)) else {
            return style.text(paragraph);
        };
        let mut out = style.text(&returns.lead);
        for (codes, meaning) in &returns.codes {
            out.push_str(&format!(
                ".TP\n.B {}\n{}",
                literal(&codes.join(", ")),
                style.text(meaning)
            ));
        }
        if !returns.tail.is_empty() {
            out.push_str(&format!(".PP\n{}", style.text(&returns.tail)));
        }
        out
    }

    /// Whether a word is a number below zero, or the name of one.
    fn is_code(&self, word: &str) -> bool {
        is_negative(word) || self.codes().any(|(name, _, _)| name == word)
    }

    /// The constants that are codes: name, value, what is said about them.
    fn codes(&self) -> impl Iterator<Item = (&'a str, &'a str, &'a [Block])> {
        let items = self.header.items.iter();
        let constants = items.filter_map(|item| Some((item.constant()?, &item.doc)));
        constants
            .filter(|((_, value), _)| is_negative(value))
            .map(|((name, value), doc)| (name, value, &doc[..]))
    }

    /// Pages that this one names, and those that name it. The functions without a prefix belong together.
    fn see_also(&self, names: &[&str]) -> String {
        let is_old = |name: &str| !name.starts_with("kvs_");
        let own = || self.all().filter(|function| names.contains(&function.name));
        let related = |other: &Function<'_>| {
            own().any(|one| {
                one.names(other.name)
                    || other.names(one.name)
                    || is_old(one.name) && is_old(other.name)
            }) || other.name == "kvs_strerror"
        };
        let mut pages: BTreeSet<&str> =
            self.all().filter(related).map(|other| self.place(other.name)).collect();
        for name in names {
            pages.remove(name);
        }
        pages.insert("kvs");
        references(pages)
    }

    fn overview(&self, program: &str) -> String {
        let Head { text, sections } = &self.header.head;
        let style = self.style(&[]);
        let mut text = text.iter().filter_map(|block| match block {
            Block::Paragraph(text) if !text.starts_with("Generated ") => Some(text.as_str()),
            _ => None,
        });
        let first = text.next().unwrap_or_default();
        let summary = first.split_once(" - ").map_or(first, |(_, summary)| summary);
        let mut page = self.beginning(&["kvs"], &summary_of(summary));
        page.push_str(&self.link());
        page.push_str(".SH DESCRIPTION\n");
        let mut codes = (String::new(), Vec::new());
        for paragraph in text {
            page.push_str(&format!("{}.PP\n", style.text(paragraph)));
        }
        for (term, section) in sections {
            match table(section) {
                Some((others, table)) => codes = (blocks(&style, &others), table),
                None if term == "Codes" => codes.0 = blocks(&style, section),
                None => page.push_str(&format!(".SS {term}\n{}", blocks(&style, section))),
            }
        }
        page.push_str(".SH FUNCTIONS\n");
        for function in self.all() {
            page.push_str(&format!(".TP\n.BR {} (3)\n", function.name));
            page.push_str(&guarded(&literal(&function.summary())));
            page.push('\n');
        }
        page.push_str(&self.limits(&style));
        page.push_str(&self.code_list(&style, &codes.0, codes.1));
        if let Some(environment) = &self.environment {
            page.push_str(&environment.section(&style));
        }
        page.push_str(
            ".SH FILES\n.TP\n.I /tmp/server_sock\nThe socket of the local server, unless\n.B KVS_SOCKET\nis set.\n\
             .TP\n.I /tmp/server_sock_cb\nIts callback socket, unless\n.B KVS_SOCKET\nor\n.B KVS_CALLBACK_SOCKET\nis set.\n",
        );
        page.push_str(
            ".SH EXAMPLES\nA pair is put, got, replaced and deleted.\n\
             More programs are in the directory\n.I examples\nof the documentation.\n",
        );
        page.push_str(&example(&program_lines(program)));
        let first = [CONNECT, "kvs_open", "kvs_strerror"];
        let first = first.into_iter().filter(|name| self.functions.contains(name));
        page.push_str(&references(first.collect()));
        page
    }

    /// Constants that are not codes, and types about which nothing is to be known.
    fn limits(&self, style: &Style<'_>) -> String {
        let mut out = String::from(".SH \"CONSTANTS AND TYPES\"\n");
        for item in &self.header.items {
            let tag = match item.constant() {
                Some((_, value)) if is_negative(value) => continue,
                Some((name, value)) => format!(".BR {name} \" ({})\"", literal(value)),
                None if is_opaque(item) => format!(".B {}", item.type_name().unwrap_or_default()),
                None => continue,
            };
            out.push_str(&format!(".TP\n{tag}\n{}", hanging(&blocks(style, &item.doc))));
        }
        out
    }

    /// All codes, from the table at the top of the header and from the constants.
    fn code_list(&self, style: &Style<'_>, text: &str, table: Vec<Code>) -> String {
        let mut codes: Vec<(i32, String, String)> = Vec::new();
        for (name, value, doc) in self.codes() {
            let Ok(number) = value.parse() else { continue };
            codes.push((
                number,
                format!(".BR {name} \" ({})\"", literal(value)),
                hanging(&blocks(style, doc)),
            ));
        }
        for (number, meaning) in table {
            if codes.iter().all(|(other, _, _)| *other != number) {
                codes.push((
                    number,
                    format!(".B {}", literal(&number.to_string())),
                    style.text(&meaning),
                ));
            }
        }
        codes.sort_by_key(|(number, _, _)| -number);
        let mut out = format!(".SH CODES\n{text}");
        for (_, tag, meaning) in codes {
            out.push_str(&format!(".TP\n{tag}\n{meaning}"));
        }
        out
    }
}

impl<'a> Function<'a> {
    /// Where the paragraph about the result is.
    fn returns_at(&self) -> Option<usize> {
        let is_it =
            |block: &Block| matches!(block, Block::Paragraph(text) if text.starts_with("Returns "));
        self.item.doc.iter().position(is_it)
    }

    fn returns(&self) -> Option<&'a str> {
        match &self.item.doc[self.returns_at()?] {
            Block::Paragraph(text) => Some(text),
            _ => None,
        }
    }

    /// What is before it; the environment has a section of its own.
    fn description(&self, environment: Option<&Environment>) -> Vec<Block> {
        let end = self.returns_at().unwrap_or(self.item.doc.len());
        let block = |block: &Block| match (block, environment) {
            (Block::Paragraph(text), Some(environment)) if *text == environment.whole => {
                Block::Paragraph(environment.rest.clone())
            }
            _ => block.clone(),
        };
        self.item.doc[..end].iter().map(block).collect()
    }

    /// What is behind it.
    fn arguments(&self) -> &'a [Block] {
        self.returns_at().map_or(&[], |at| &self.item.doc[at + 1..])
    }

    fn summary(&self) -> String {
        summary_of(paragraphs(&self.item.doc).next().unwrap_or("a function of kvs"))
    }

    /// Whether what is said about it names that function.
    fn names(&self, other: &str) -> bool {
        self.name != other
            && paragraphs(&self.item.doc).any(|text| words(text).any(|word| word == other))
    }
}

/// The paragraph about the result, apart.
struct Returns {
    lead: String,
    codes: Vec<(Vec<String>, String)>,
    tail: String,
}

impl Returns {
    /// From "Returns 0, or: -2 not connected; -3 -4 the connection broke; otherwise as kvs_put."
    fn parse(paragraph: &str, is_code: &dyn Fn(&str) -> bool) -> Option<Self> {
        let ends = paragraph.char_indices().filter(|&(_, c)| c == ':' || c == ';');
        let (end, rest) = ends
            .map(|(at, _)| (at + 1, paragraph[at + 1..].trim_start()))
            .find(|(_, rest)| codes_at(rest, is_code).is_some())?;
        // The list follows what is said of other codes.
        let besides = if paragraph[..end].ends_with(';') { " besides:" } else { "" };
        let lead = format!("{}{besides}", &paragraph[..end]);
        let (mut codes, mut tail) = (Vec::<(Vec<String>, String)>::new(), String::new());
        for segment in rest.split("; ") {
            if let Some((of, meaning)) = codes_at(segment, is_code) {
                codes.push((of, meaning.to_owned()));
            } else if !tail.is_empty() {
                tail.push_str(&format!("; {segment}"));
            } else if let Some(rest) = segment.strip_prefix("otherwise ") {
                tail = format!("Otherwise {rest}");
            } else if let Some((_, meaning)) = codes.last_mut() {
                meaning.push_str(&format!("; {segment}"));
            }
        }
        let (_, last) = codes.last_mut()?;
        if tail.is_empty() {
            // What follows the list.
            if let Some((meaning, after)) = last.clone().split_once(". ") {
                (*last, tail) = (meaning.to_owned(), after.to_owned());
            }
            *last = last.trim_end_matches('.').to_owned();
        }
        Some(Self { lead, codes, tail })
    }
}

/// The codes with which a text begins, and what is behind them.
fn codes_at<'t>(text: &'t str, is_code: &dyn Fn(&str) -> bool) -> Option<(Vec<String>, &'t str)> {
    let (mut codes, mut rest) = (Vec::new(), text);
    while let Some((word, after)) = rest.split_once(' ') {
        let bare = word.trim_matches(['`', ',', '(', ')']);
        if !is_code(bare) {
            break;
        }
        match codes.last_mut() {
            // Its number.
            Some(code) if word.starts_with('(') => *code = format!("{code} ({bare})"),
            _ => codes.push(bare.to_owned()),
        }
        rest = after;
    }
    let is_list = !codes.is_empty() && !rest.is_empty();
    is_list.then_some((codes, rest))
}

/// What a paragraph says of the environment: "It is read here: `A` (this), `B` (that). More."
struct Environment {
    whole: String,
    /// The paragraph without it.
    rest: String,
    variables: Vec<(String, String)>,
}

impl Environment {
    fn parse(paragraph: &str) -> Option<Self> {
        let (lead, list) = paragraph.split_once(": `KVS_")?;
        let mut variables = Vec::new();
        let mut rest = list;
        loop {
            let (name, after) = rest.split_once("` (")?;
            let end = closing(after)?;
            variables.push((format!("KVS_{name}"), after[..end].to_owned()));
            rest = &after[end + 1..];
            match [", `KVS_", " and `KVS_", ", and `KVS_"]
                .iter()
                .find_map(|next| rest.strip_prefix(next))
            {
                Some(next) => rest = next,
                None => break,
            }
        }
        let rest = format!("{lead} (see ENVIRONMENT){rest}");
        Some(Self { whole: paragraph.to_owned(), rest, variables })
    }

    fn section(&self, style: &Style<'_>) -> String {
        let mut out = String::from(".SH ENVIRONMENT\n");
        for (name, meaning) in &self.variables {
            out.push_str(&format!(".TP\n.B {name}\n{}", style.text(meaning)));
        }
        out
    }
}

/// A code and its meaning.
type Code = (i32, String);

/// Where a parenthesis closes that is open already.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    let mut at = text.char_indices().skip_while(move |(_, c)| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth > 0
    });
    at.next().map(|(at, _)| at)
}

/// The table of codes in a section, and the rest of it.
fn table(section: &[Block]) -> Option<(Vec<Block>, Vec<Code>)> {
    let (mut others, mut codes) = (Vec::new(), Vec::new());
    for block in section {
        match block {
            Block::Code(lines) if lines.iter().all(|line| is_code_line(line)) => {
                codes.extend(lines.iter().flat_map(|line| cells(line)));
            }
            _ => others.push(block.clone()),
        }
    }
    (!codes.is_empty()).then_some((others, codes))
}

fn is_code_line(line: &str) -> bool {
    line.split_whitespace().next().is_some_and(is_negative)
}

/// A line of the table has one code or two, with two spaces or more between them.
fn cells(line: &str) -> Vec<Code> {
    let mut cells: Vec<Code> = Vec::new();
    for cell in line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()) {
        let code = cell.split_once(' ').and_then(|(code, text)| Some((code.parse().ok()?, text)));
        match (code, cells.last_mut()) {
            (Some((code, text)), _) if code < 0 => cells.push((code, text.to_owned())),
            (_, Some((_, text))) => text.push_str(&format!(" {cell}")),
            _ => {}
        }
    }
    cells
}

fn is_negative(word: &str) -> bool {
    word.starts_with('-') && word.parse::<i32>().is_ok()
}

fn is_opaque(item: &Item) -> bool {
    let has_inside = item.declaration.contains(['{', '(']);
    item.type_name().is_some() && !item.doc.is_empty() && !has_inside
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

fn paragraphs(doc: &[Block]) -> impl Iterator<Item = &str> {
    doc.iter().filter_map(|block| match block {
        Block::Paragraph(text) => Some(text.as_str()),
        _ => None,
    })
}

/// The first statement of a text, for a line: without what is in parentheses, from a small letter, without a stop.
fn summary_of(text: &str) -> String {
    let mut out = String::new();
    let mut depth = 0;
    for c in text.chars().filter(|c| *c != '`') {
        depth += i32::from(c == '(');
        if depth == 0 {
            out.push(c);
        }
        depth -= i32::from(c == ')');
    }
    let out = out.replace(" ,", ",").replace(" .", ".").replace("  ", " ");
    let end = [". ", ": ", "; "].iter().filter_map(|end| out.find(end)).min();
    let statement = out[..end.unwrap_or(out.len())].trim_end_matches('.').trim();
    let mut chars = statement.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

fn blocks(style: &Style<'_>, blocks: &[Block]) -> String {
    let mut out = String::new();
    for (n, block) in blocks.iter().enumerate() {
        match block {
            Block::Paragraph(text) => {
                if n > 0 {
                    out.push_str(".PP\n");
                }
                out.push_str(&style.text(text));
            }
            Block::List(entries) => {
                for entry in entries {
                    out.push_str(&format!(".IP \\(bu 3\n{}", style.text(entry)));
                }
            }
            Block::Code(lines) => out.push_str(&example(lines)),
        }
    }
    out
}

/// Text below a tag: its paragraphs keep the tag's indentation.
fn hanging(text: &str) -> String {
    text.replace(".PP\n", ".IP\n")
}

fn references(pages: BTreeSet<&str>) -> String {
    let pages: Vec<_> = pages.iter().map(|page| format!(".BR {page} (3)")).collect();
    format!(".SH \"SEE ALSO\"\n{}\n", pages.join(",\n"))
}

/// A structure, each comment within it on one line.
fn structure(declaration: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut comment: Option<Vec<&str>> = None;
    for line in declaration.lines() {
        let text = line.trim();
        let Some(words) = &mut comment else {
            if text == "/*" {
                comment = Some(Vec::new());
            } else {
                let margin = if line.starts_with(' ') { "    " } else { "" };
                lines.push(format!("{margin}{text}"));
            }
            continue;
        };
        if text == "*/" {
            lines.push(format!("    /* {} */", words.join(" ").replace('`', "")));
            comment = None;
        } else {
            words.push(text);
        }
    }
    lines
}

/// A program, as a user of the installed library writes it, without the comment at its top.
fn program_lines(program: &str) -> Vec<String> {
    let body = match program.split_once("*/\n") {
        Some((comment, body)) if comment.starts_with("/*") => body,
        _ => program,
    };
    let body = body.trim().replace("\"kvs.h\"", "<kvs.h>");
    body.lines().map(str::to_owned).collect()
}
