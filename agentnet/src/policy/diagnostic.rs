//! What is wrong with a policy or configuration file, where, and what would be right.

use std::fmt;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

pub use super::source::Source;
use super::source::{FileId, Place, Sources};

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
    /// What has to be spoken, in a rule without a name.
    NoName = Error "no_name",
    /// What TLS has to be like, in a rule that has none.
    NoTls = Error "no_tls",
    /// UDP where QUIC is denied.
    Quic = Error "quic",
    /// A list that must not be empty.
    EmptyList = Error "empty_list",
    /// A text that means nothing where it stands; in the daemon's configuration.
    Value = Error "value",
    /// A policy that extends itself, or one that extends one, and so on too often.
    Extends = Error "extends",
    /// Not the address of a resolver.
    Resolver = Error "resolver",
    /// More resolvers or search domains than are used.
    TooManyResolvers = Error "too_many_resolvers",
    /// More names with search domains behind them than the kernel is given.
    TooManyNames = Error "too_many_names",
    /// More rules than can be told apart.
    TooManyRules = Error "too_many_rules",
    /// More port ranges at one place than the kernel looks through.
    TooManyRanges = Error "too_many_ranges",
    /// Not a name for a Unix socket.
    UnixName = Error "unix_name",
    /// A name that is denied, at addresses of the internet that are allowed.
    DenyNotEnforced = Error "deny_not_enforced",
    /// An allow rule that denies leave nothing of.
    Unreachable = Warning "unreachable",
    /// The same rule twice.
    Duplicate = Warning "duplicate",
    /// A rule that says what has to be spoken, where another one decides.
    Shadowed = Warning "shadowed",
    /// A port of proxies, which ask whomever they are told to.
    ProxyPort = Warning "proxy_port",
    /// A wildcard for a whole top-level domain or for all names.
    WideWildcard = Warning "wide_wildcard",
    /// A name that is denied, at addresses of special-purpose networks that are allowed.
    DenyByNameOnly = Warning "deny_by_name_only",
    /// A Unix socket of somebody who does what he is asked to.
    UnixDoor = Warning "unix_door",
    /// A Unix socket in a directory that others than root may change.
    UnixChangeable = Warning "unix_changeable",
    /// Names of Unix sockets where all are open.
    UnixAllowUnused = Warning "unix_allow_unused",
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Its kind.
    pub code: Code,
    /// One sentence that names the cause.
    pub message: String,
    /// What it is about; `None` where it is about the file that was asked for as a whole.
    pub place: Option<Place>,
    /// A word or two at the caret.
    pub label: Option<String>,
    /// Other places that have to do with it, each with a word or two.
    pub related: Vec<(Place, String)>,
    /// What would be right.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A problem at a place.
    pub fn new(code: Code, place: impl Into<Place>, message: impl Into<String>) -> Self {
        let place = Some(place.into());
        Self { code, message: message.into(), place, label: None, related: Vec::new(), help: None }
    }

    /// A problem with the file as a whole.
    pub fn of_file(code: Code, message: impl Into<String>) -> Self {
        Self { place: None, ..Self::new(code, 0..0, message) }
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
    pub fn related(mut self, place: impl Into<Place>, label: impl Into<String>) -> Self {
        self.related.push((place.into(), label.into()));
        self
    }

    /// With all of its places in `file`; one that is about a whole file is at its beginning.
    #[must_use]
    pub fn in_file(mut self, file: FileId) -> Self {
        self.place.get_or_insert(Place { file, span: 0..0 }).file = file;
        self.related.iter_mut().for_each(|(place, _)| place.file = file);
        self
    }

    /// How bad it is.
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }
}

/// The problems of a policy: those of the file that was asked for and of those that belong to it.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    sources: Sources,
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
    /// Problems in the order of their places, file by file.
    pub fn new(sources: impl Into<Sources>, mut items: Vec<Diagnostic>) -> Self {
        let place = |place: &Place| (place.file, place.span.start, place.span.end);
        items.sort_by_key(|item| item.place.as_ref().map(place));
        Self { sources: sources.into(), items }
    }

    /// The problems, in the order of their places.
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

    /// The file that was asked for.
    pub fn file(&self) -> &str {
        &self.sources.main().file
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
        let mut group = Group::with_title(title);
        for snippet in self.snippets(item) {
            group = group.element(snippet);
        }
        if let Some(help) = &item.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    /// For each file that the problem is about, the one with its caret first, the lines that have to do with
    /// it. Not the whole file: thousands of problems in a big file would each be searched for in all of it.
    fn snippets<'a>(&'a self, item: &'a Diagnostic) -> Vec<Snippet<'a, Annotation<'a>>> {
        let related = item.related.iter();
        let related = related.map(|(place, label)| (place, Some(label.as_str()), AnnotationKind::Context));
        let primary = item.place.iter();
        let primary = primary.map(|place| (place, item.label.as_deref(), AnnotationKind::Primary));
        let places: Vec<_> = primary.chain(related).collect();
        let mut files: Vec<FileId> = Vec::new();
        for (place, ..) in &places {
            if !files.contains(&place.file) {
                files.push(place.file);
            }
        }
        let of = |file: FileId| places.iter().filter(move |(place, ..)| place.file == file);
        files.iter().map(|&file| snippet(self.sources.get(file), &of(file).collect::<Vec<_>>())).collect()
    }

    /// For machines: one JSON object a problem and line, each line with its end.
    pub fn json_lines(&self) -> String {
        let mut lines = String::new();
        for item in &self.items {
            let source = self.sources.get(item.place.as_ref().map_or(FileId::MAIN, |place| place.file));
            let at = item.place.as_ref().map(|place| source.clamp(&place.span).start);
            let line = Line {
                severity: item.severity(),
                code: item.code.label(),
                message: &item.message,
                file: &source.file,
                line: at.map(|at| source.line(at)),
                column: at.map(|at| source.column(at)),
                help: item.help.as_deref(),
            };
            // Strings and numbers always have a JSON form.
            lines.push_str(&serde_json::to_string(&line).unwrap_or_default());
            lines.push('\n');
        }
        lines
    }
}

type Marked<'a> = (&'a Place, Option<&'a str>, AnnotationKind);

/// The lines of `source` that hold `places`.
fn snippet<'a>(source: &'a Source, places: &[&Marked<'a>]) -> Snippet<'a, Annotation<'a>> {
    let spans = || places.iter().map(|(place, ..)| source.clamp(&place.span));
    let first = spans().map(|span| span.start).min().unwrap_or_default();
    let last = spans().map(|span| span.end).max().unwrap_or_default();
    let start = source.line_start(first);
    let text = source.text().get(start..source.line_end(last)).unwrap_or_default();
    let annotations = places.iter().map(|(place, label, kind)| {
        let span = source.clamp(&place.span);
        let within = span.start.saturating_sub(start)..span.end.saturating_sub(start).min(text.len());
        kind.span(within).label(*label)
    });
    Snippet::source(text).path(source.file.as_str()).line_start(source.line(first)).annotations(annotations)
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
