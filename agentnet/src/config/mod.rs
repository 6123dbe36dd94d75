//! The daemon's configuration: `/etc/agentnet/config.toml`.
//!
//! Read with what policies are read with: all that is wrong is told, each with its place in the file. A file
//! that is not there means the defaults, which `dist/config.toml` spells out.

pub mod check;
pub mod schema;
mod value;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use toml::Spanned;

use crate::{
    detect::secrets::source::{self, SOURCES},
    policy::{
        self,
        diagnostic::{Diagnostic, Diagnostics, Source},
        parse::{self, Field, walk::Walker},
    },
    store::{self, Limits},
};

/// Where the daemon looks for its configuration.
pub const PATH: &str = "/etc/agentnet/config.toml";

/// What the daemon is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Members of this group may see status, alerts and flows; with `None` only root may.
    pub read_group: Option<String>,
    /// Members of this group may have their own commands governed by `agentnet run`; with `None` only root
    /// may have the daemon do so.
    pub run_group: Option<String>,
    /// The directory of the policies.
    pub policies: PathBuf,
    /// Where alerts and flows are kept, and how many.
    pub store: store::Options,
    /// Bytes of each agent's HTTP that are looked at in a second.
    pub http_bytes_per_second: u64,
    /// Where the secrets of this host are that must not leave it.
    pub host_secrets: Vec<source::Source>,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            read_group: Some("agentnet".to_owned()),
            run_group: Some("agentnet-run".to_owned()),
            policies: policy::DIRECTORY.into(),
            store: store::Options::default(),
            http_bytes_per_second: 8 << 20,
            host_secrets: Vec::new(),
        }
    }
}

impl DaemonConfig {
    /// Reads the configuration at `path`, or at [`PATH`], where it need not be.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: Option<&Path>) -> Result<Self, Diagnostics> {
        let (path, optional) = path.map_or((Path::new(PATH), true), |path| (path, false));
        let file = path.display().to_string();
        match policy::read(path) {
            Ok(text) => Self::from_text(&file, &text),
            Err(error) if optional && error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(policy::unreadable(&file, &error)),
        }
    }

    /// Reads a configuration, which `file` has in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_text(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let mut problems = Vec::new();
        let config = parse::root(text, &mut problems)
            .map(|root| Self::read(Walker::new(&schema::CONFIG, 0..0, root, &mut problems)));
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(Diagnostics::new(Source::new(file, text), problems)),
        }
    }

    fn read(mut root: Walker<'_, '_>) -> Self {
        let mut config = Self::default();
        if let Some(mut control) = root.table("control") {
            set(&mut control, "read_group", value::group, &mut config.read_group);
            set(&mut control, "run_group", value::group, &mut config.run_group);
        }
        if let Some(mut policies) = root.table("policies") {
            set(&mut policies, "directory", value::directory, &mut config.policies);
        }
        if let Some(mut store) = root.table("store") {
            set(&mut store, "directory", value::directory, &mut config.store.directory);
            limits(store.table("alerts"), &mut config.store.alerts);
            limits(store.table("flows"), &mut config.store.flows);
        }
        if let Some(mut sample) = root.table("sample") {
            let bytes = &mut config.http_bytes_per_second;
            set(&mut sample, "http_bytes_per_second", value::bytes, bytes);
        }
        if let Some(mut secret) = root.table("detect").as_mut().and_then(|detect| detect.table("secret"))
            && let Field::Is(sources) = secret.strings("host_secrets")
        {
            config.host_secrets = host_secrets(&mut secret, sources.into_inner());
        }
        config
    }
}

/// Where secrets are; what is wrong with one is reported.
fn host_secrets(table: &mut Walker<'_, '_>, listed: Vec<Spanned<String>>) -> Vec<source::Source> {
    let mut sources = Vec::new();
    for text in listed {
        match value::source(text.get_ref()) {
            Ok(source) if sources.len() < SOURCES => sources.push(source),
            Ok(_) => {
                let wrong = value::Wrong { why: "there are too many before it", help: "64 are the most" };
                table.report(wrong.at("host_secrets", text.get_ref(), text.span()));
                break;
            }
            Err(wrong) => table.report(wrong.at("host_secrets", text.get_ref(), text.span())),
        }
    }
    sources
}

fn limits(table: Option<Walker<'_, '_>>, limits: &mut Limits) {
    if let Some(mut table) = table {
        set(&mut table, "size", value::store_bytes, &mut limits.bytes);
        set(&mut table, "age", value::age, &mut limits.age);
    }
}

/// Sets `target` to what the text of the key `name` means; what is wrong with it is reported.
fn set<T>(
    table: &mut Walker<'_, '_>,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, value::Wrong>,
    target: &mut T,
) {
    let Field::Is(text) = table.string(name) else { return };
    match parse(text.get_ref()) {
        Ok(value) => *target = value,
        Err(wrong) => table.report(wrong.at(name, text.get_ref(), text.span())),
    }
}

impl value::Wrong {
    fn at(self, name: &str, text: &str, span: std::ops::Range<usize>) -> Diagnostic {
        let message = format!("{} is no value for `{name}`: {}", policy::diagnostic::quote(text), self.why);
        Diagnostic::new(policy::diagnostic::Code::Value, span, message).help(self.help)
    }
}
