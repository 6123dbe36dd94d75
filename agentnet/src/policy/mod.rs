//! The policy file: text -> [`parse::Document`] -> [`validate::Valid`] -> [`compile::Compiled`].

pub mod compile;
pub mod diagnostic;
pub mod explain;
pub mod name;
pub mod net;
pub mod parse;
pub mod schema;
pub mod selector;
pub mod special;
pub mod traffic;
pub mod validate;
pub mod warnings;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use agentnet_common::abi::{LOCAL_OWN, MODE_AUDIT};

use self::{
    compile::Compiled,
    diagnostic::{Code, Diagnostic, Diagnostics, Severity, Source, quote},
    parse::Document,
    validate::Valid,
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
    source: Arc<Source>,
    valid: Valid,
    local: Vec<IpAddr>,
}

impl Policy {
    /// Loads a policy for a host that has the addresses `local`. `path_or_name` is a path if it has a
    /// slash or ends in `.toml`; else a name, looked up in [`DIRECTORY`], then among [`BUILT_IN`].
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path_or_name: &str, local: &[IpAddr]) -> Result<Self, Diagnostics> {
        Self::load_from(Path::new(DIRECTORY), path_or_name, local)
    }

    /// The same with another directory of policies.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load_from(directory: &Path, path_or_name: &str, local: &[IpAddr]) -> Result<Self, Diagnostics> {
        let (file, text) = if is_path(path_or_name) {
            let text = read(Path::new(path_or_name)).map_err(|error| unreadable(path_or_name, &error))?;
            (path_or_name.to_owned(), text)
        } else {
            Self::look_up(directory, path_or_name)?
        };
        Self::from_text(&file, &text, local)
    }

    /// The file and the text of the policy called `name`, in `directory` or built in.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn look_up(directory: &Path, name: &str) -> Result<(String, String), Diagnostics> {
        if validate::is_policy_name(name) {
            let path = directory.join(format!("{name}.toml"));
            let file = path.display().to_string();
            match read(&path) {
                Ok(text) => return Ok((file, text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&file, &error)),
            }
            if let Some((name, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
                return Ok((format!("<{name}>"), (*text).to_owned()));
            }
        }
        let built_in: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        let problem = Diagnostic::of_file(
            Code::NotFound,
            format!("there is no policy {} in {} or built in", quote(name), directory.display()),
        )
        .help(format!("built in are {}; a path has a slash in it or ends in .toml", built_in.join(", ")));
        Err(Diagnostics::new(Arc::new(Source::new(name, "")), vec![problem]))
    }

    /// Makes a policy of `text`, which `file` has in messages, for a host that has the addresses `local`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_text(file: &str, text: &str, local: &[IpAddr]) -> Result<Self, Diagnostics> {
        let source = Arc::new(Source::new(file, text));
        let mut problems = Vec::new();
        let Some(document) = Document::parse(text, &mut problems) else {
            return Err(Diagnostics::new(source, problems));
        };
        Self::from_document(source, document, local, problems)
    }

    /// What [`Self::from_text`] does once the text is read, with the `problems` it had.
    fn from_document(
        source: Arc<Source>,
        document: Document,
        local: &[IpAddr],
        mut problems: Vec<Diagnostic>,
    ) -> Result<Self, Diagnostics> {
        let valid = Valid::check(document, &mut problems);
        problems.extend(warnings::of(&valid));
        let compiled = Compiled::new(&valid, &source, local, &mut problems);
        let problems = Diagnostics::new(Arc::clone(&source), problems);
        if problems.count(Severity::Error) > 0 {
            return Err(problems);
        }
        Ok(Self { compiled, warnings: problems, source, valid, local: local.to_vec() })
    }

    /// The policy of an agent that was given none: everything is reported, nothing is refused.
    pub fn audit() -> Self {
        let source = Arc::new(Source::new("<audit>", ""));
        let valid = Valid {
            name: "audit".to_owned(),
            mode: MODE_AUDIT,
            loopback: LOCAL_OWN,
            listen: LOCAL_OWN,
            rules: Vec::new(),
            agents: Vec::new(),
            detect: Actions::default(),
            detect_span: None,
        };
        // Without rules nothing can be wrong.
        let compiled = Compiled::new(&valid, &source, &[], &mut Vec::new());
        let warnings = Diagnostics::new(Arc::clone(&source), Vec::new());
        Self { compiled, warnings, source, valid, local: Vec::new() }
    }

    /// A policy of which only the name is known: what it allows, the kernel alone knows.
    pub fn unknown(name: &str) -> Self {
        let mut policy = Self::audit();
        policy.source = Arc::new(Source::new(UNKNOWN, ""));
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

    /// Whether it is what [`Policy::from_text`] makes of these.
    pub fn is_of(&self, file: &str, text: &str, local: &[IpAddr]) -> bool {
        self.file() == file && self.text() == text && self.local == local
    }

    /// The file it was read from, or the name of a built-in policy in angle brackets.
    pub fn file(&self) -> &str {
        &self.source.file
    }

    /// Its text, as its author wrote it.
    pub fn text(&self) -> &str {
        self.source.text()
    }

    /// Whether it is built in, and no file.
    pub fn is_built_in(&self) -> bool {
        self.source.file.starts_with('<')
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
    Diagnostics::new(Arc::new(Source::new(file, "")), vec![problem])
}
