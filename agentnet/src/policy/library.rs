//! The files that belong to a policy: the presets it names, and the policies it extends.

use std::{fs, io, path::Path};

use toml::Spanned;

use super::{
    BUILT_IN,
    diagnostic::{Code, Diagnostic, quote},
    parse::{Document, Field, walk::closest},
    presets::{self, Preset},
    read,
    source::{FileId, Source, Sources},
    validate::{Part, is_policy_name},
};

/// How many policies one may extend, each the next.
pub const MOST_EXTENDED: usize = 8;

/// Where policies are looked up by name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Library<'a>(pub(super) &'a Path);

/// Why there is no such policy.
#[derive(Debug)]
pub(super) enum Missing {
    /// No policy has this name.
    Unknown,
    /// The file cannot be read.
    Unreadable(String, io::Error),
}

/// What belongs to a policy.
pub(super) struct Gathered {
    /// The file itself, its presets, the policy it extends, the presets of that, and so on.
    pub(super) parts: Vec<Part>,
    /// The policies it extends, by name.
    pub(super) extended: Vec<(String, FileId)>,
}

impl Library<'_> {
    /// The file and the text of the policy called `name`: in the directory, else built in.
    pub(super) fn look_up(self, name: &str) -> Result<(String, String), Missing> {
        if !is_policy_name(name) {
            return Err(Missing::Unknown);
        }
        let path = self.0.join(format!("{name}.toml"));
        let file = path.display().to_string();
        match read(&path) {
            Ok(text) => return Ok((file, text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Missing::Unreadable(file, error)),
        }
        let (name, text) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name).ok_or(Missing::Unknown)?;
        Ok((format!("<{name}>"), (*text).to_owned()))
    }

    /// That there is no policy called `name`.
    pub(super) fn unknown(self, name: &str) -> String {
        format!("there is no policy {} in {} or built in", quote(name), self.0.display())
    }

    /// Reads what `document`, the main file of `sources`, names; problems go to `problems`.
    pub(super) fn gather(
        self,
        sources: &mut Sources,
        document: Document,
        problems: &mut Vec<Diagnostic>,
    ) -> Gathered {
        let mut gathered =
            Gathered { parts: vec![Part { file: FileId::MAIN, document }], extended: Vec::new() };
        let mut taken: Vec<&'static str> = Vec::new();
        let mut at = 0;
        while let Some(Part { file, document }) = gathered.parts.get(at) {
            let file = *file;
            let extends = document.extends.value().cloned();
            let mut found = Vec::new();
            let named = named_presets(&document.presets, &mut found);
            for preset in named {
                if taken.contains(&preset.name) {
                    continue;
                }
                taken.push(preset.name);
                let source = Source::new(preset.file(), preset.text);
                if let Some(part) = parse(source, sources, problems) {
                    gathered.parts.push(part);
                }
            }
            at = gathered.parts.len();
            if let Some(name) = extends
                && let Some(source) = self.extended(&name, sources, &gathered, &mut found)
                && let Some(part) = parse(source, sources, problems)
            {
                gathered.extended.push((name.into_inner(), part.file));
                gathered.parts.push(part);
            }
            problems.extend(found.into_iter().map(|problem| problem.in_file(file)));
        }
        gathered
    }

    /// The policy that is extended by this name.
    fn extended(
        self,
        name: &Spanned<String>,
        sources: &Sources,
        gathered: &Gathered,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<Source> {
        let wrong = |code, message: String| Diagnostic::new(code, name.span(), message);
        if gathered.extended.len() >= MOST_EXTENDED {
            problems.push(
                wrong(Code::Extends, format!("more than {MOST_EXTENDED} policies extend one another"))
                    .help("put into one file what belongs together"),
            );
            return None;
        }
        match self.look_up(name.get_ref()) {
            Ok((file, _)) if sources.iter().any(|source| source.file == file) => {
                let message = match gathered.extended.is_empty() {
                    true => "the policy extends itself".to_owned(),
                    false => format!("{} extends, in the end, itself", quote(name.get_ref())),
                };
                problems.push(wrong(Code::Extends, message).help("remove `extends` from one of them"));
                None
            }
            Ok((file, text)) => Some(Source::new(file, text)),
            Err(Missing::Unknown) => {
                let known = self.names();
                let help = match closest(name.get_ref(), known.iter().map(String::as_str)) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => format!("there are {}", known.join(", ")),
                };
                problems.push(wrong(Code::NotFound, self.unknown(name.get_ref())).help(help));
                None
            }
            Err(Missing::Unreadable(file, error)) => {
                problems.push(wrong(Code::Unreadable, format!("cannot read {}: {error}", quote(&file))));
                None
            }
        }
    }

    /// The names of the policies there are.
    fn names(self) -> Vec<String> {
        let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
        // What cannot be listed cannot be meant.
        for entry in fs::read_dir(self.0).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".toml"));
            names.extend(name.filter(|name| is_policy_name(name)).map(str::to_owned));
        }
        names.sort();
        names.dedup();
        names
    }
}

/// A file as written; `None` if it is not TOML.
fn parse(source: Source, sources: &mut Sources, problems: &mut Vec<Diagnostic>) -> Option<Part> {
    let mut found = Vec::new();
    let document = Document::parse(source.text(), &mut found);
    let file = sources.add(source);
    problems.extend(found.into_iter().map(|problem| problem.in_file(file)));
    Some(Part { file, document: document? })
}

/// The presets of a list.
fn named_presets(list: &Field<Vec<Spanned<String>>>, problems: &mut Vec<Diagnostic>) -> Vec<&'static Preset> {
    let mut named: Vec<&Preset> = Vec::new();
    for name in list.value().map(Spanned::get_ref).into_iter().flatten() {
        let text = name.get_ref();
        let Some(preset) = presets::find(text) else {
            let help = match closest(text, presets::names()) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => "`agentnet policy presets` lists them".to_owned(),
            };
            let message = format!("{} is not a preset", quote(text));
            problems.push(Diagnostic::new(Code::UnknownValue, name.span(), message).help(help));
            continue;
        };
        if named.iter().any(|known| known.name == preset.name) {
            let message = format!("the preset {} is here twice", quote(text));
            problems.push(Diagnostic::new(Code::Duplicate, name.span(), message).help("remove one of them"));
            continue;
        }
        named.push(preset);
    }
    named
}
