//! The layout of `kvs.h`: turns what cbindgen writes into a header that reads as if written by
//! hand.
//!
//! Comments get a left border, prototypes are filled up to the last column, negative constants get
//! parentheses, and titles separate the groups of functions. Text is not changed.

/// The maximum length of a line.
const WIDTH: usize = 100;

/// A title in the header, before the function that it names first.
pub(crate) struct Title {
    pub(crate) before: &'static str,
    pub(crate) text: &'static str,
}

/// Lays out what cbindgen has written.
pub(crate) fn header(raw: &str, titles: &[Title]) -> String {
    let mut out = String::new();
    let mut lines = raw.lines().peekable();
    // The documentation of the next declaration.
    let mut doc = String::new();
    while let Some(line) = lines.next() {
        if line.trim() == "/*" {
            let margin = &line[..line.len() - line.trim_start().len()];
            let text: Vec<_> = lines.by_ref().take_while(|line| line.trim() != "*/").collect();
            doc = comment(margin, &text);
        } else if line.starts_with("#define KVS_") {
            // One code per line and no blank lines between them: they are a table.
            if line.starts_with("#define KVS_ERROR_") && out.ends_with(")\n\n") {
                out.pop();
            }
            push(&mut out, &mut doc, &constant(line));
        } else if is_prototype(line) {
            let mut declaration = line.trim_end().to_owned();
            while !declaration.ends_with(';') {
                let Some(next) = lines.next() else { break };
                declaration.push_str(&format!(" {}", next.trim()));
            }
            if let Some(title) = titles.iter().find(|title| declares(&declaration, title.before)) {
                out.push_str(&format!("/* {:-<94} */\n\n", format!("{} ", title.text)));
            }
            push(&mut out, &mut doc, &filled(&declaration));
        } else {
            push(&mut out, &mut doc, &without_line_comment(line));
        }
    }
    out
}

fn push(out: &mut String, doc: &mut String, line: &str) {
    out.push_str(&std::mem::take(doc));
    out.push_str(line);
    out.push('\n');
}

/// A comment with its left border; on one line where it fits.
fn comment(margin: &str, lines: &[&str]) -> String {
    let text: Vec<_> = lines
        .iter()
        .map(|line| line.strip_prefix(margin).unwrap_or(line))
        .map(without_border)
        .collect();
    if let [line] = text.as_slice()
        && margin.len() + line.len() + "/*  */".len() <= WIDTH
    {
        return format!("{margin}/* {line} */\n");
    }
    let mut out = format!("{margin}/*\n");
    for line in text {
        out.push_str(format!("{margin} * {line}").trim_end());
        out.push('\n');
    }
    out + margin + " */\n"
}

/// A line of a comment without the border that it may have already.
fn without_border(line: &str) -> &str {
    let line = line.strip_prefix(" *").unwrap_or(line);
    line.strip_prefix(' ').unwrap_or(line)
}

/// `#define NAME -1` with parentheses, because a macro may follow an operator.
fn constant(line: &str) -> String {
    match line.rsplit_once(' ') {
        Some((name, value)) if value.starts_with('-') => format!("{name} ({value})"),
        _ => line.to_owned(),
    }
}

/// Whether the line begins the declaration of a function or of a type of functions.
fn is_prototype(line: &str) -> bool {
    line.starts_with(char::is_alphabetic) && line.contains('(') && !line.starts_with("extern ")
}

fn declares(declaration: &str, function: &str) -> bool {
    declaration.split('(').next().is_some_and(|before| before.ends_with(function))
}

/// A prototype with as many parameters on each line as fit, below each other.
fn filled(declaration: &str) -> String {
    // The names of types that are structures in C and C++ alike.
    let declaration = declaration.replace("struct kvs_", "kvs_").replace("(char*)", "(char *)");
    let open = if declaration.starts_with("typedef ") {
        declaration.find(")(").map(|at| at + 1)
    } else {
        declaration.find('(')
    };
    let Some(open) = open else { return declaration };
    let margin = " ".repeat(open + 1);
    let mut out = String::new();
    let mut line = declaration[..=open].to_owned();
    let parameters: Vec<_> = declaration[open + 1..].split(", ").collect();
    for (n, parameter) in parameters.iter().enumerate() {
        let end = if n + 1 < parameters.len() { "," } else { "" };
        let space = if n > 0 && line != margin { " " } else { "" };
        if n > 0 && line.len() + space.len() + parameter.len() + end.len() > WIDTH {
            out.push_str(&format!("{line}\n"));
            line = format!("{margin}{parameter}{end}");
        } else {
            line.push_str(&format!("{space}{parameter}{end}"));
        }
    }
    out + &line
}

/// cbindgen writes its own comments as `// …`, which C89 does not support.
fn without_line_comment(line: &str) -> String {
    match line.split_once(" // ") {
        Some((code, comment)) if code.starts_with(['#', '}']) => {
            format!("{} /* {comment} */", code.trim_end())
        }
        _ => line.to_owned(),
    }
}
