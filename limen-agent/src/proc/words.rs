//! Words between blanks.

/// The words of a text; `.0` is what is left of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a>(pub(super) &'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_ascii_start();
        let (word, rest) = text.split_once(|character: char| character.is_ascii_whitespace()).unwrap_or((text, ""));
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// The first `N` numbers of a text; 0 for those that an older kernel does not tell.
pub(super) fn numbers<const N: usize>(text: &str) -> [u64; N] {
    let mut words = Words(text);
    std::array::from_fn(|_| words.next().and_then(|word| word.parse().ok()).unwrap_or(0))
}
