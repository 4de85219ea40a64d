//! A page of documentation in Markdown, block by block, for tests that follow it to the letter.

/// A block of a page.
#[derive(Debug)]
pub struct Block {
    /// The number of its first line.
    pub line: usize,
    /// What its first line begins with.
    pub language: String,
    /// What follows there, `NAME=VALUE`, as its two parts. No reader sees it.
    pub marker: Option<(String, String)>,
    /// The name in backticks with which the text before it ends, if a colon follows that.
    pub file: Option<String>,
    /// Its lines.
    pub text: String,
}

/// All blocks of a page.
///
/// # Panics
/// When there is one of another form.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    // The last line of the text before a block.
    let mut text_before = "";
    let mut is_after_text = false;
    let mut lines = page.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            // Markdown knows other ways to write a block.
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
        blocks.push(Block {
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
