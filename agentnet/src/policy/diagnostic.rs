//! What is wrong with a policy or configuration file, where, and what would be right.

use std::{fmt, ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and probably does not do what its author thinks.
    Warning,
}

/// Defines [`Code`] with what belongs to each kind of problem.
macro_rules! problem_codes {
    ($($(#[$doc:meta])* $code:ident = $severity:ident $label:literal,)+) => {
        /// What kind of problem it is. The labels are stable: scripts match on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $code),+ }

        impl Code {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            /// The stable label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$code => $label),+ }
            }

            /// How bad a problem of this kind is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$code => Severity::$severity),+ }
            }
        }
    };
}

problem_codes! {
    /// The file cannot be read.
    Unreadable = Error "unreadable",
    /// No policy has this name.
    NotFound = Error "not_found",
    /// Not TOML.
    Syntax = Error "syntax",
    /// A key that no version knows.
    UnknownKey = Error "unknown_key",
    /// A key of a later version.
    NotEnforced = Error "not_enforced",
    /// A value of the wrong type.
    WrongType = Error "wrong_type",
    /// A value that is not one of those possible.
    UnknownValue = Error "unknown_value",
    /// A key is missing.
    MissingKey = Error "missing_key",
    /// A version of the file format that is not known.
    Version = Error "version",
    /// Not a name for a policy.
    PolicyName = Error "policy_name",
    /// Not exactly one of the keys of which there has to be one.
    Target = Error "target",
    /// Not a pattern for units, cgroups or containers.
    Selector = Error "selector",
    /// Not a network.
    Cidr = Error "cidr",
    /// A network with host bits set.
    HostBits = Error "host_bits",
    /// Not a domain name.
    Domain = Error "domain",
    /// Not a port or a range of ports.
    Port = Error "port",
    /// Ports for a protocol that has none.
    PortsWithIcmp = Error "ports_with_icmp",
    /// A list that must not be empty.
    EmptyList = Error "empty_list",
    /// A text that means nothing where it stands; in the daemon's configuration.
    Value = Error "value",
    /// More rules than can be told apart.
    TooManyRules = Error "too_many_rules",
    /// More port ranges at one place than the kernel looks through.
    TooManyRanges = Error "too_many_ranges",
    /// A name that is denied, at addresses of the internet that are allowed.
    DenyNotEnforced = Error "deny_not_enforced",
    /// An allow rule that denies leave nothing of.
    Unreachable = Warning "unreachable",
    /// The same rule twice.
    Duplicate = Warning "duplicate",
    /// A wildcard for a whole top-level domain or for all names.
    WideWildcard = Warning "wide_wildcard",
    /// Name rules, which this version does not resolve.
    NamesNotResolved = Warning "names_not_resolved",
    /// A name that is denied, at addresses of special-purpose networks that are allowed.
    DenyByNameOnly = Warning "deny_by_name_only",
    /// `[detect]`, which only `replay` and `scan` heed.
    DetectNotLive = Warning "detect_not_live",
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Its kind.
    pub code: Code,
    /// One sentence that names the cause.
    pub message: String,
    /// Bytes of the file it is about; `None` where it is about the file as a whole.
    pub span: Option<Range<usize>>,
    /// A word or two at the caret.
    pub label: Option<String>,
    /// Other places that have to do with it, each with a word or two.
    pub related: Vec<(Range<usize>, String)>,
    /// What would be right.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A problem with the bytes `span` of the file.
    pub fn new(code: Code, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), span: Some(span), label: None, related: Vec::new(), help: None }
    }

    /// A problem with the file as a whole.
    pub fn of_file(code: Code, message: impl Into<String>) -> Self {
        Self { span: None, ..Self::new(code, 0..0, message) }
    }

    /// With a word or two at the caret.
    #[must_use]
    pub fn label(self, label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// With what would be right.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// With another place that has to do with it.
    #[must_use]
    pub fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// How bad it is.
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }
}

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

    fn line_start(&self, at: usize) -> usize {
        self.lines.get(self.line(at).saturating_sub(1)).copied().unwrap_or_default()
    }

    fn line_end(&self, at: usize) -> usize {
        self.lines.get(self.line(at)).map_or(self.text.len(), |next| next - 1)
    }

    /// `span`, if need be moved to characters of the file: a caret must not make the report fail.
    fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start);
        start..self.text.ceil_char_boundary(span.end.min(self.text.len())).max(start)
    }
}

/// The problems of one policy file.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    source: Arc<Source>,
    items: Vec<Diagnostic>,
}

/// A problem as one line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    severity: Severity,
    code: &'static str,
    message: &'a str,
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    help: Option<&'a str>,
}

impl Diagnostics {
    /// Problems of a file, in the order of their places in it.
    pub fn new(source: Arc<Source>, mut items: Vec<Diagnostic>) -> Self {
        items.sort_by_key(|item| item.span.as_ref().map(|span| (span.start, span.end)));
        Self { source, items }
    }

    /// The problems, in the order of their places in the file.
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.items.iter().filter(|item| item.severity() == severity).count()
    }

    /// The file.
    pub fn file(&self) -> &str {
        &self.source.file
    }

    /// For people: each problem with its place in the file, a blank line between two. With `color`, ANSI
    /// escape sequences.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let rendered: Vec<_> = self.items.iter().map(|item| self.render_one(&renderer, item)).collect();
        rendered.join("\n\n")
    }

    fn render_one(&self, renderer: &Renderer, item: &Diagnostic) -> String {
        let level = match item.severity() {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(item.message.as_str()).id(item.code.label());
        let mut group = match &item.span {
            Some(span) => title.element(self.snippet(span, item)),
            None => Group::with_title(title),
        };
        if let Some(help) = &item.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    /// The lines that hold the problem and what has to do with it. Not the whole file: thousands of
    /// problems in a big file would each be searched for in all of it.
    fn snippet<'a>(
        &'a self,
        span: &Range<usize>,
        item: &'a Diagnostic,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let source = &*self.source;
        let spans = || item.related.iter().map(|(span, _)| span).chain([span]);
        let first = spans().map(|span| source.clamp(span).start).min().unwrap_or_default();
        let last = spans().map(|span| source.clamp(span).end).max().unwrap_or_default();
        let start = source.line_start(first);
        let text = source.text.get(start..source.line_end(last)).unwrap_or_default();
        let within = |span: &Range<usize>| {
            let span = source.clamp(span);
            span.start.saturating_sub(start)..span.end.saturating_sub(start).min(text.len())
        };
        let related = item
            .related
            .iter()
            .map(|(span, label)| AnnotationKind::Context.span(within(span)).label(label.as_str()));
        Snippet::source(text)
            .path(source.file.as_str())
            .line_start(source.line(first))
            .annotation(AnnotationKind::Primary.span(within(span)).label(item.label.as_deref()))
            .annotations(related)
    }

    /// For machines: one JSON object a problem and line, each line with its end.
    pub fn json_lines(&self) -> String {
        let mut lines = String::new();
        for item in &self.items {
            let place = item.span.as_ref().map(|span| self.source.clamp(span).start);
            let line = Line {
                severity: item.severity(),
                code: item.code.label(),
                message: &item.message,
                file: &self.source.file,
                line: place.map(|at| self.source.line(at)),
                column: place.map(|at| self.source.column(at)),
                help: item.help.as_deref(),
            };
            // Strings and numbers always have a JSON form.
            lines.push_str(&serde_json::to_string(&line).unwrap_or_default());
            lines.push('\n');
        }
        lines
    }
}

impl fmt::Display for Diagnostics {
    /// For people, without colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// A text from the file as part of a sentence: in backticks, control characters escaped, cut when long.
pub(crate) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut quoted = String::new();
    for char in text.chars().take(LONGEST) {
        match char {
            // escape_debug is for literals; nothing here ends at a quote.
            '"' | '\'' | '\\' => quoted.push(char),
            _ => quoted.extend(char.escape_debug()),
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        quoted.push('…');
    }
    format!("`{quoted}`")
}
