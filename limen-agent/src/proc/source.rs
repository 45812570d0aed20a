//! A file that the kernel writes anew at each read, kept open.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Opened at the first read, read from its beginning at each.
#[derive(Debug)]
pub(crate) struct Source {
    path: &'static str,
    file: Option<File>,
    buffer: Vec<u8>,
}

/// As much is read at first; `/proc/stat` of a machine with many interrupts is larger.
const USUAL: usize = 4 << 10;

impl Source {
    pub(crate) const fn new(path: &'static str) -> Self {
        Self { path, file: None, buffer: Vec::new() }
    }

    /// All that the file says now.
    ///
    /// # Errors
    /// It cannot be opened or read; the message names it.
    pub(crate) fn bytes(&mut self) -> io::Result<&[u8]> {
        let path = self.path;
        self.fill().map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    }

    /// The same as text; what is no UTF-8 shows as U+FFFD.
    ///
    /// # Errors
    /// As [`Source::bytes`].
    pub(crate) fn text(&mut self) -> io::Result<Cow<'_, str>> {
        self.bytes().map(String::from_utf8_lossy)
    }

    fn fill(&mut self) -> io::Result<&[u8]> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(self.path)?),
        };
        let mut filled = 0;
        loop {
            if filled == self.buffer.len() {
                self.buffer.resize((filled * 2).max(USUAL), 0);
            }
            match file.read_at(&mut self.buffer[filled..], filled as u64)? {
                0 => return Ok(&self.buffer[..filled]),
                read => filled += read,
            }
        }
    }
}
