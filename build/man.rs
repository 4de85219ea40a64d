//! Manual pages from the header: one for each function, and kvs(3) from the comment at its top.
//!
//! A page says what the header says. The paragraphs before the first table become DESCRIPTION, that
//! table PARAMETERS. The paragraph that begins with "Returns" becomes RETURN VALUE with its table,
//! and what follows it NOTES. A comment of another form stays text: no wording makes the build
//! fail.

use std::collections::BTreeSet;

use crate::header::{Block, Head, Header, Item, Row, Section};
use crate::roff::{Style, example, guarded, literal, parameters, prototype};

/// The first line of each page; the generator recognises its own pages by it.
pub(crate) const MARK: &str =
    ".\\\" Generated from the comments in kvs-lib/src/capi; changes belong there.\n";

/// The functions that connect; their pages have the section [`ENVIRONMENT`], too.
const CONNECT: [&str; 2] = ["establish_connection", "kvs_open"];

/// The section of the header's first comment that has the environment variables.
const ENVIRONMENT: &str = "Environment";

/// The section that introduces the error codes.
const ERRORS: &str = "Errors";

/// Returns the names and the texts of all pages. `text` is the header, `program` the example of
/// kvs(3).
pub(crate) fn pages(text: &str, version: &str, program: &str) -> Vec<(String, String)> {
    let header = Header::parse(text);
    Manual::new(&header, version).pages(program)
}

struct Manual<'a> {
    header: &'a Header,
    version: &'a str,
    functions: BTreeSet<&'a str>,
    names: BTreeSet<&'a str>,
}

/// A function of the header.
#[derive(Clone, Copy)]
struct Function<'a> {
    name: &'a str,
    item: &'a Item,
}

/// The documentation of a function by the sections of its page.
#[derive(Default)]
struct Parts<'a> {
    description: &'a [Block],
    parameters: &'a [Block],
    returns: &'a [Block],
    notes: &'a [Block],
}

impl<'a> Manual<'a> {
    fn new(header: &'a Header, version: &'a str) -> Self {
        let items = header.items.iter();
        let functions = items.clone().filter_map(Item::function_name).collect();
        let constants = items.clone().filter_map(|item| Some(item.constant()?.0));
        let names = constants.chain(items.filter_map(Item::type_name)).collect();
        Self { header, version, functions, names }
    }

    fn all(&self) -> impl Iterator<Item = Function<'a>> + use<'a> {
        let function = |item: &'a Item| Some(Function { name: item.function_name()?, item });
        self.header.items.iter().filter_map(function)
    }

    fn pages(&self, program: &str) -> Vec<(String, String)> {
        let mut pages = vec![("kvs.3".to_owned(), self.overview(program))];
        for function in self.all() {
            let leader = self.page_leader(function.name);
            let page = if leader == function.name {
                let together: Vec<_> =
                    self.all().filter(|other| self.page_leader(other.name) == leader).collect();
                self.page(&together)
            } else {
                format!(".so man3/{leader}.3\n")
            };
            pages.push((format!("{}.3", function.name), page));
        }
        pages
    }

    /// The function that names the page of this one: `kvs_watch_prefix` is on the page of
    /// `kvs_watch`.
    fn page_leader(&self, name: &'a str) -> &'a str {
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
            "{MARK}.TH {title} 3 \"\" \"kvs {version}\" kvs\n.ad l\n.nh\n\
             .SH NAME\n{names} \\- {summary}\n\
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
        page.push_str(LINK);

        page.push_str(&section("DESCRIPTION", functions, |parts| parts.description, &style));
        for item in types {
            page.push_str(&format!(".SS {}\n", item.type_name().unwrap_or_default()));
            page.push_str(&blocks(&style, &item.doc));
            if item.declaration.contains('{') {
                page.push_str(&example(&structure(&item.declaration)));
            }
        }
        page.push_str(&section("PARAMETERS", functions, |parts| parts.parameters, &style));
        page.push_str(&section("\"RETURN VALUE\"", functions, |parts| parts.returns, &style));
        page.push_str(&section("NOTES", functions, |parts| parts.notes, &style));
        if names.iter().any(|name| CONNECT.contains(name)) {
            page.push_str(&self.environment(&style));
        }
        page.push_str(&self.see_also(&names));
        page
    }

    /// The types that the functions take, other than opaque ones.
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

    /// The section ENVIRONMENT, if the header has one.
    fn environment(&self, style: &Style<'_>) -> String {
        match self.head_section(ENVIRONMENT) {
            Some(section) => format!(".SH ENVIRONMENT\n{}", blocks(style, &section.body)),
            None => String::new(),
        }
    }

    fn head_section(&self, title: &str) -> Option<&'a Section> {
        self.header.head.sections.iter().find(|section| section.title == title)
    }

    /// The constants that are codes, with their documentation.
    fn codes(&self) -> impl Iterator<Item = (&'a str, &'a str, &'a [Block])> {
        let items = self.header.items.iter();
        let constants = items.filter_map(|item| Some((item.constant()?, &item.doc)));
        constants
            .filter(|((_, value), _)| is_negative(value))
            .map(|((name, value), doc)| (name, value, &doc[..]))
    }

    /// Pages that this one names, and pages that name it. The functions without a prefix refer to
    /// each other.
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
            self.all().filter(related).map(|other| self.page_leader(other.name)).collect();
        for name in names {
            pages.remove(name);
        }
        pages.insert("kvs");
        references(pages)
    }

    fn overview(&self, program: &str) -> String {
        let Head { text, sections } = &self.header.head;
        let style = self.style(&[]);
        let first = paragraphs(text).next().unwrap_or_default();
        let summary = first.split_once(" - ").map_or(first, |(_, summary)| summary);
        let mut page = self.beginning(&["kvs"], &summary_of(summary));
        page.push_str(LINK);
        page.push_str(".SH DESCRIPTION\n");
        let is_text = |block: &&Block| match block {
            Block::Paragraph(text) => text != first && !text.starts_with("Generated "),
            _ => true,
        };
        let text: Vec<_> = text.iter().filter(is_text).cloned().collect();
        page.push_str(&blocks(&style, &text));
        for Section { title, body } in sections {
            if ![ENVIRONMENT, ERRORS].contains(&title.as_str()) {
                page.push_str(&format!(".SS {title}\n{}", blocks(&style, body)));
            }
        }
        page.push_str(".SH FUNCTIONS\n");
        for function in self.all() {
            page.push_str(&format!(".TP\n.BR {} (3)\n", function.name));
            page.push_str(&guarded(&literal(&function.summary())));
            page.push('\n');
        }
        page.push_str(&self.limits(&style));
        page.push_str(&self.code_list(&style));
        page.push_str(&self.environment(&style));
        page.push_str(
            ".SH FILES\n\
             .TP\n.I /tmp/server_sock\n\
             The socket of the local server, unless\n.B KVS_SOCKET\nis set.\n\
             .TP\n.I /tmp/server_sock_cb\nThe server's callback socket, unless\n.B KVS_SOCKET\nor\n\
             .B KVS_CALLBACK_SOCKET\nis set.\n",
        );
        page.push_str(
            ".SH EXAMPLES\nThis program stores, reads, replaces and deletes a pair.\n\
             More programs are in the directory\n.I examples\nof the documentation.\n",
        );
        page.push_str(&example(&program_lines(program)));
        let first = CONNECT.into_iter().chain(["kvs_strerror"]);
        page.push_str(&references(first.filter(|name| self.functions.contains(name)).collect()));
        page
    }

    /// Constants that are not codes, and opaque types.
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

    /// All codes by name, after the section [`ERRORS`].
    fn code_list(&self, style: &Style<'_>) -> String {
        let text = self.head_section(ERRORS).map(|section| blocks(style, &section.body));
        let mut out = format!(".SH ERRORS\n{}", text.unwrap_or_default());
        for (name, value, doc) in self.codes() {
            let meaning = hanging(&blocks(style, doc));
            out.push_str(&format!(".TP\n.BR {name} \" ({})\"\n{meaning}", literal(value)));
        }
        out
    }
}

impl<'a> Function<'a> {
    fn parts(&self) -> Parts<'a> {
        let doc = &self.item.doc[..];
        let is_returns =
            |block: &Block| matches!(block, Block::Paragraph(text) if text.starts_with("Returns "));
        let Some(returns) = doc.iter().position(is_returns) else {
            return Parts { description: doc, ..Parts::default() };
        };
        let has_table = matches!(doc.get(returns + 1), Some(Block::Table(_)));
        let notes = returns + 1 + usize::from(has_table);
        // The parameters are the last table before the result.
        let before = &doc[..returns];
        let parameters = before.iter().rposition(|block| matches!(block, Block::Table(_)));
        let parameters = parameters.unwrap_or(returns);
        Parts {
            description: &doc[..parameters],
            parameters: &doc[parameters..returns],
            returns: &doc[returns..notes],
            notes: &doc[notes..],
        }
    }

    fn summary(&self) -> String {
        summary_of(paragraphs(&self.item.doc).next().unwrap_or("a function of kvs"))
    }

    /// Whether the documentation of this function names that function.
    fn names(&self, other: &str) -> bool {
        let names = |text: &str| words(text).any(|word| word == other);
        self.name != other
            && self.item.doc.iter().any(|block| match block {
                Block::Paragraph(text) => names(text),
                Block::Table(rows) => rows.iter().any(|row| names(&row.text)),
                Block::List(entries) => entries.iter().any(|entry| names(entry)),
                Block::Code(_) => false,
            })
    }
}

/// How a program is linked.
const LINK: &str = ".fi\n.PP\nLink with\n.BR \"cc program.c \\-lkvs\" ,\nor with the output of\n\
                    .BR \"pkg\\-config \\-\\-cflags \\-\\-libs kvs\" .\n";

/// A section of a page, with a subsection for each of several functions. Empty if none has such a
/// part.
fn section<'a>(
    title: &str,
    functions: &[Function<'a>],
    part: impl Fn(&Parts<'a>) -> &'a [Block],
    style: &Style<'_>,
) -> String {
    let mut out = String::new();
    for function in functions {
        let part = part(&function.parts());
        if !part.is_empty() && functions.len() > 1 {
            out.push_str(&format!(".SS {}()\n", function.name));
        }
        out.push_str(&blocks(style, part));
    }
    if out.is_empty() { out } else { format!(".SH {title}\n{out}") }
}

fn is_negative(word: &str) -> bool {
    word.starts_with('-') && word.parse::<i32>().is_ok()
}

fn is_opaque(item: &Item) -> bool {
    let has_body = item.declaration.contains(['{', '(']);
    item.type_name().is_some() && !item.doc.is_empty() && !has_body
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

/// The first statement of a text for the line NAME: in lower case, without parentheses and full
/// stop.
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
    let statement = out[..end.unwrap_or(out.len())].trim_end_matches(['.', ':']).trim();
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
            Block::Table(rows) => {
                for Row { term, text } in rows {
                    // A long list of terms has one of them on each line.
                    let term = literal(&term.replace('`', ""));
                    out.push_str(&format!(".TP\n.B {}\n", term.replace(", ", ",\n.TQ\n.B ")));
                    out.push_str(&style.text(text));
                }
                // Ends the indentation of the last text.
                if n + 1 < blocks.len() && !matches!(blocks[n + 1], Block::Paragraph(_)) {
                    out.push_str(".PP\n");
                }
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

/// Text below a tag: its paragraphs keep the indentation of the tag.
fn hanging(text: &str) -> String {
    text.replace(".PP\n", ".IP\n")
}

fn references(pages: BTreeSet<&str>) -> String {
    let pages: Vec<_> = pages.iter().map(|page| format!(".BR {page} (3)")).collect();
    format!(".SH \"SEE ALSO\"\n{}\n", pages.join(",\n"))
}

/// The lines of a structure, each comment on one line.
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
                lines.push(format!("{margin}{}", text.replace('`', "")));
            }
            continue;
        };
        if text == "*/" {
            lines.push(format!("    /* {} */", words.join(" ").replace('`', "")));
            comment = None;
        } else {
            words.push(text.trim_start_matches("* "));
        }
    }
    lines
}

/// A program as a user of the installed library writes it, without the comment at its top.
fn program_lines(program: &str) -> Vec<String> {
    let body = match program.split_once("*/\n") {
        Some((comment, body)) if comment.starts_with("/*") => body,
        _ => program,
    };
    let body = body.trim().replace("\"kvs.h\"", "<kvs.h>");
    body.lines().map(str::to_owned).collect()
}
