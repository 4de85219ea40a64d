//! The code blocks of a Markdown page, for tests that execute a page literally.

/// A code block of a page.
#[derive(Debug)]
pub struct CodeBlock {
    /// The number of its first line.
    pub line: usize,
    /// The language after the opening fence.
    pub language: String,
    /// The marker `NAME=VALUE` after the language, which is not rendered.
    pub marker: Option<(String, String)>,
    /// The file name in backticks and a colon that end the text before the block.
    pub file: Option<String>,
    /// The lines of the block.
    pub text: String,
}

/// All code blocks of a page.
///
/// # Panics
/// If a block is neither fenced with backticks nor closed.
pub fn code_blocks(page: &str) -> Vec<CodeBlock> {
    let mut blocks = Vec::new();
    // The last line of text before a block.
    let mut text_before = "";
    let mut is_after_text = false;
    let mut lines = page.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            // Markdown has other forms of blocks, which pages must not use.
            let hidden = line.contains("```") || line.contains("~~~");
            let indented = !is_after_text && (line.starts_with("    ") || line.starts_with('\t'));
            assert!(!hidden && !indented, "line {number}: a block of another form: {line}");
            is_after_text = !line.trim().is_empty();
            if is_after_text {
                text_before = line;
            }
            continue;
        };
        let (language, marker) = info.split_once(' ').unwrap_or((info, ""));
        let marker = (!marker.is_empty()).then(|| {
            let parts = marker.split_once('=').filter(|(_, value)| !value.contains(' '));
            let (name, value) =
                parts.unwrap_or_else(|| panic!("line {number}: {marker:?} is no marker"));
            (name.to_owned(), value.to_owned())
        });
        let mut text = String::new();
        loop {
            match lines.next() {
                Some(("```", _)) => break,
                Some((line, _)) => text.extend([line, "\n"]),
                None => panic!("line {number}: the block has no end"),
            }
        }
        let file = text_before.strip_suffix("`:").and_then(|text| text.rsplit('`').next());
        blocks.push(CodeBlock {
            line: number,
            language: language.to_owned(),
            marker,
            file: file.map(str::to_owned),
            text,
        });
        (text_before, is_after_text) = ("", false);
    }
    blocks
}
