//! The files that a policy is made of, and places in them.

use std::{ops::Range, sync::Arc};

/// A policy file as text, and where its lines begin.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path, or the name of a built-in policy in angle brackets.
    pub file: String,
    text: String,
    /// Byte offset of each line.
    lines: Vec<usize>,
}

impl Source {
    /// A file of this name and content.
    pub fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.into(), text, lines }
    }

    /// Its content.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line, from 1, that holds byte `at`.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&start| start <= at)
    }

    /// The column, in characters from 1, of byte `at` in its line.
    pub fn column(&self, at: usize) -> usize {
        self.text.get(self.line_start(at)..at).map_or(1, |before| before.chars().count() + 1)
    }

    pub(super) fn line_start(&self, at: usize) -> usize {
        self.lines.get(self.line(at).saturating_sub(1)).copied().unwrap_or_default()
    }

    pub(super) fn line_end(&self, at: usize) -> usize {
        self.lines.get(self.line(at)).map_or(self.text.len(), |next| next - 1)
    }

    /// `span`, if need be moved to characters of the file: a caret must not make the report fail.
    pub(super) fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start);
        start..self.text.ceil_char_boundary(span.end.min(self.text.len())).max(start)
    }
}

/// A file by its number in [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u16);

impl FileId {
    /// The file that was asked for: the others are those it extends and its presets.
    pub const MAIN: Self = Self(0);
}

/// Bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: FileId,
    /// The bytes.
    pub span: Range<usize>,
}

impl From<Range<usize>> for Place {
    /// In [`FileId::MAIN`], until [`Diagnostic::in_file`](super::diagnostic::Diagnostic::in_file) says
    /// otherwise: a reader of one file knows only that one.
    fn from(span: Range<usize>) -> Self {
        Self { file: FileId::MAIN, span }
    }
}

/// The files of a policy, the one that was asked for first. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sources(Arc<Vec<Source>>);

impl Sources {
    /// One more file. Of more than 65,536, the last ones would share a number; presets are few and
    /// [`super::library::MOST_EXTENDED`] bounds the rest.
    pub fn add(&mut self, source: Source) -> FileId {
        let files = Arc::make_mut(&mut self.0);
        files.push(source);
        FileId(u16::try_from(files.len() - 1).unwrap_or(u16::MAX))
    }

    /// The file that was asked for.
    pub fn main(&self) -> &Source {
        self.get(FileId::MAIN)
    }

    /// A file of these.
    pub fn get(&self, file: FileId) -> &Source {
        static NOTHING: Source = Source { file: String::new(), text: String::new(), lines: Vec::new() };
        self.0.get(usize::from(file.0)).unwrap_or(&NOTHING)
    }

    /// All, the one that was asked for first.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }

    /// The line, from 1, in which a place begins.
    pub fn line(&self, place: &Place) -> usize {
        self.get(place.file).line(place.span.start)
    }
}

impl From<Source> for Sources {
    fn from(source: Source) -> Self {
        Self(Arc::new(vec![source]))
    }
}
