//! The policy file: text -> [`parse::Document`], with those it names -> [`validate::Valid`] ->
//! [`compile::Compiled`].

pub mod compile;
pub mod diagnostic;
pub mod diff;
pub mod explain;
mod held;
pub mod host;
pub mod library;
pub mod name;
pub mod net;
pub mod parse;
pub mod presets;
pub mod resolvers;
pub mod schema;
pub mod selector;
pub mod source;
pub mod special;
pub mod spoken;
pub mod traffic;
pub mod unix;
pub mod validate;
pub mod warnings;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    path::Path,
};

use agentnet_common::abi::{LOCAL_OWN, MAX_RULES, MODE_AUDIT};

use self::{
    compile::Compiled,
    diagnostic::{Code, Diagnostic, Diagnostics, Severity, Source, quote},
    host::Host,
    library::{Gathered, Library, Missing},
    parse::Document,
    source::{FileId, Sources},
    validate::{Dns, Rule, Valid},
};
use crate::detect::action::Actions;

/// Where policies are looked up by name.
pub const DIRECTORY: &str = "/etc/agentnet/policies";

/// Policies that need no file, by name.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("coding", include_str!("../../../policies/coding.toml")),
    ("lan-dev", include_str!("../../../policies/lan-dev.toml")),
    ("offline", include_str!("../../../policies/offline.toml")),
];

/// The file of a policy that cannot be read any more.
const UNKNOWN: &str = "<unknown>";

/// Bytes of the largest file that is read: room for twenty thousand rules.
const LARGEST: u64 = 1 << 20;

/// A policy that can be loaded into the kernel.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What the kernel reads.
    pub compiled: Compiled,
    /// What should be told to whoever uses it.
    pub warnings: Diagnostics,
    sources: Sources,
    /// The policies it extends, by name.
    extended: Vec<(String, FileId)>,
    valid: Valid,
    /// What it was read for.
    host: Host,
    /// Whether it is what [`Self::without`] makes.
    narrowed: bool,
}

impl Policy {
    /// Loads a policy for `host`. `path_or_name` is a path if it has a slash or ends in `.toml`; else a name,
    /// looked up in [`DIRECTORY`], then among [`BUILT_IN`].
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path_or_name: &str, host: &Host) -> Result<Self, Diagnostics> {
        Self::load_from(Path::new(DIRECTORY), path_or_name, host)
    }

    /// The same with another directory of policies.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load_from(directory: &Path, path_or_name: &str, host: &Host) -> Result<Self, Diagnostics> {
        let (file, text) = if is_path(path_or_name) {
            let text = read(Path::new(path_or_name)).map_err(|error| unreadable(path_or_name, &error))?;
            (path_or_name.to_owned(), text)
        } else {
            Self::look_up(directory, path_or_name)?
        };
        Self::read_from(directory, &file, &text, host)
    }

    /// The file and the text of the policy called `name`, in `directory` or built in.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn look_up(directory: &Path, name: &str) -> Result<(String, String), Diagnostics> {
        let library = Library(directory);
        library.look_up(name).map_err(|missing| match missing {
            Missing::Unreadable(file, error) => unreadable(&file, &error),
            Missing::Unknown => {
                let built_in: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                let problem = Diagnostic::of_file(Code::NotFound, library.unknown(name)).help(format!(
                    "built in are {}; a path has a slash in it or ends in .toml",
                    built_in.join(", ")
                ));
                Diagnostics::new(Source::new(name, ""), vec![problem])
            }
        })
    }

    /// Makes a policy of `text`, which `file` has in messages, for a host that has the addresses `local` and asks
    /// nobody for names. What it extends is looked up in [`DIRECTORY`].
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_text(file: &str, text: &str, local: &[IpAddr]) -> Result<Self, Diagnostics> {
        Self::read_from(Path::new(DIRECTORY), file, text, &Host::at(local))
    }

    /// Makes a policy of `text`, which `file` has in messages, for `host`. What it extends is looked up in
    /// `directory`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read_from(directory: &Path, file: &str, text: &str, host: &Host) -> Result<Self, Diagnostics> {
        let source = Source::new(file, text);
        let mut problems = Vec::new();
        let Some(document) = Document::parse(text, &mut problems) else {
            return Err(Diagnostics::new(source, problems));
        };
        Self::from_document(directory, source, document, host, problems)
    }

    /// What [`Self::read_from`] does once the text is read, with the `problems` it had.
    fn from_document(
        directory: &Path,
        source: Source,
        document: Document,
        host: &Host,
        mut problems: Vec<Diagnostic>,
    ) -> Result<Self, Diagnostics> {
        let mut sources = Sources::from(source);
        let Gathered { parts, extended } = Library(directory).gather(&mut sources, document, &mut problems);
        let valid = Valid::check(&parts, &mut problems);
        problems.extend(warnings::of(&valid));
        let compiled = Compiled::new(&valid, &sources, host, &mut problems);
        let problems = Diagnostics::new(sources.clone(), problems);
        if problems.count(Severity::Error) > 0 {
            return Err(problems);
        }
        Ok(Self {
            compiled,
            warnings: problems,
            sources,
            extended,
            valid,
            host: host.clone(),
            narrowed: false,
        })
    }

    /// The policy of an agent that was given none: everything is reported, nothing is refused.
    pub fn audit(host: &Host) -> Self {
        let sources = Sources::from(Source::new("<audit>", ""));
        let valid = Valid {
            name: "audit".to_owned(),
            mode: MODE_AUDIT,
            loopback: LOCAL_OWN,
            listen: LOCAL_OWN,
            rules: Vec::new(),
            dns: Dns::default(),
            agents: Vec::new(),
            detect: Actions::default(),
            unix: unix::UnixSockets::default(),
        };
        // Without rules nothing can be wrong.
        let compiled = Compiled::new(&valid, &sources, host, &mut Vec::new());
        let warnings = Diagnostics::new(sources.clone(), Vec::new());
        Self { compiled, warnings, sources, extended: Vec::new(), valid, host: host.clone(), narrowed: false }
    }

    /// The same policy with these names, and all below them, denied on top of what it says.
    ///
    /// # Errors
    /// If it has no room for more rules.
    pub fn without<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut valid = self.valid.clone();
        let mut sources = self.sources.clone();
        let file = sources.add(Source::new("<detection>", ""));
        for name in names {
            for pattern in [name.to_owned(), format!("*.{name}")] {
                let pattern = name::Pattern::parse(&pattern)
                    .map_err(|error| format!("{} cannot be blocked by its name: {error}", quote(name)))?;
                valid.rules.push(Rule::deny_all(pattern, file));
            }
        }
        let mut problems = Vec::new();
        let compiled = Compiled::new(&valid, &sources, &self.host, &mut problems);
        if valid.rules.len() > MAX_RULES
            || problems.iter().any(|problem| problem.severity() == Severity::Error)
        {
            return Err(format!("policy {} has no room for more names", self.compiled.name));
        }
        Ok(Self { compiled, sources, valid, narrowed: true, ..self.clone() })
    }

    /// A policy of which only the name is known: what it allows, the kernel alone knows.
    pub fn unknown(name: &str) -> Self {
        let mut policy = Self::audit(&Host::default());
        policy.sources = Source::new(UNKNOWN, "").into();
        name.clone_into(&mut policy.compiled.name);
        policy
    }

    /// Whether it is such a policy.
    pub fn is_unknown(&self) -> bool {
        self.file() == UNKNOWN
    }

    /// Makes it report only, whatever the file says.
    pub const fn force_audit(&mut self) {
        self.valid.mode = MODE_AUDIT;
        self.compiled.mode = MODE_AUDIT;
    }

    /// Whether it is what [`Policy::read_from`] makes of these now.
    pub fn is_of(&self, directory: &Path, file: &str, text: &str, host: &Host) -> bool {
        let library = Library(directory);
        !self.narrowed
            && self.file() == file
            && self.text() == text
            && self.host.local == host.local
            && self.compiled.resolution == self.valid.dns.on(&host.resolution)
            && self.extended.iter().all(|(name, id)| {
                let known = self.sources.get(*id);
                library.look_up(name).is_ok_and(|(file, text)| known.file == file && known.text() == text)
            })
    }

    /// What it says of Unix sockets.
    pub const fn unix(&self) -> &unix::UnixSockets {
        &self.valid.unix
    }

    /// The file it was read from, or the name of a built-in policy in angle brackets.
    pub fn file(&self) -> &str {
        &self.sources.main().file
    }

    /// Its text, as its author wrote it.
    pub fn text(&self) -> &str {
        self.sources.main().text()
    }

    /// Whether it is built in, and no file.
    pub fn is_built_in(&self) -> bool {
        self.file().starts_with('<')
    }
}

/// Whether a policy is asked for by the path of its file and not by a name.
pub fn is_path(policy: &str) -> bool {
    policy.contains('/') || policy.ends_with(".toml")
}

/// The text of a policy or configuration file.
///
/// # Errors
/// If it cannot be read, is larger than it can sensibly be, or is not UTF-8.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        io::Error::other(format!("it is not UTF-8 text (byte {})", error.utf8_error().valid_up_to()))
    })
}

/// The problem of a file that cannot be read.
pub(crate) fn unreadable(file: &str, error: &io::Error) -> Diagnostics {
    let problem = Diagnostic::of_file(Code::Unreadable, format!("cannot read {}: {error}", quote(file)));
    Diagnostics::new(Source::new(file, ""), vec![problem])
}
