//! Rules that come with agentnet: `policies/presets/`, each with what it opens as a channel, each rule with the
//! reason for it.

use std::sync::LazyLock;

use super::{
    parse::Document,
    source::{FileId, Source},
    validate::{Part, Rule, Valid},
};

/// A preset.
#[derive(Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

const fn preset(name: &'static str, text: &'static str) -> Preset {
    Preset { name, text }
}

/// All, by name.
#[rustfmt::skip]
pub const PRESETS: &[Preset] = &[
    preset("alpine", include_str!("../../../policies/presets/alpine.toml")),
    preset("anthropic", include_str!("../../../policies/presets/anthropic.toml")),
    preset("azure-openai", include_str!("../../../policies/presets/azure-openai.toml")),
    preset("bedrock", include_str!("../../../policies/presets/bedrock.toml")),
    preset("bitbucket", include_str!("../../../policies/presets/bitbucket.toml")),
    preset("claude-code", include_str!("../../../policies/presets/claude-code.toml")),
    preset("codex", include_str!("../../../policies/presets/codex.toml")),
    preset("cohere", include_str!("../../../policies/presets/cohere.toml")),
    preset("conda", include_str!("../../../policies/presets/conda.toml")),
    preset("crates-io", include_str!("../../../policies/presets/crates-io.toml")),
    preset("debian", include_str!("../../../policies/presets/debian.toml")),
    preset("deepseek", include_str!("../../../policies/presets/deepseek.toml")),
    preset("deno", include_str!("../../../policies/presets/deno.toml")),
    preset("docker-hub", include_str!("../../../policies/presets/docker-hub.toml")),
    preset("ecr-public", include_str!("../../../policies/presets/ecr-public.toml")),
    preset("gcr", include_str!("../../../policies/presets/gcr.toml")),
    preset("gemini", include_str!("../../../policies/presets/gemini.toml")),
    preset("ghcr", include_str!("../../../policies/presets/ghcr.toml")),
    preset("github", include_str!("../../../policies/presets/github.toml")),
    preset("gitlab", include_str!("../../../policies/presets/gitlab.toml")),
    preset("go", include_str!("../../../policies/presets/go.toml")),
    preset("gradle", include_str!("../../../policies/presets/gradle.toml")),
    preset("groq", include_str!("../../../policies/presets/groq.toml")),
    preset("hex", include_str!("../../../policies/presets/hex.toml")),
    preset("huggingface", include_str!("../../../policies/presets/huggingface.toml")),
    preset("maven", include_str!("../../../policies/presets/maven.toml")),
    preset("mcr", include_str!("../../../policies/presets/mcr.toml")),
    preset("mistral", include_str!("../../../policies/presets/mistral.toml")),
    preset("nix", include_str!("../../../policies/presets/nix.toml")),
    preset("nodejs", include_str!("../../../policies/presets/nodejs.toml")),
    preset("npm", include_str!("../../../policies/presets/npm.toml")),
    preset("nuget", include_str!("../../../policies/presets/nuget.toml")),
    preset("openai", include_str!("../../../policies/presets/openai.toml")),
    preset("openrouter", include_str!("../../../policies/presets/openrouter.toml")),
    preset("packagist", include_str!("../../../policies/presets/packagist.toml")),
    preset("playwright", include_str!("../../../policies/presets/playwright.toml")),
    preset("pypi", include_str!("../../../policies/presets/pypi.toml")),
    preset("pytorch", include_str!("../../../policies/presets/pytorch.toml")),
    preset("quay", include_str!("../../../policies/presets/quay.toml")),
    preset("rubygems", include_str!("../../../policies/presets/rubygems.toml")),
    preset("rustup", include_str!("../../../policies/presets/rustup.toml")),
    preset("together", include_str!("../../../policies/presets/together.toml")),
    preset("ubuntu", include_str!("../../../policies/presets/ubuntu.toml")),
    preset("vertex-ai", include_str!("../../../policies/presets/vertex-ai.toml")),
    preset("xai", include_str!("../../../policies/presets/xai.toml")),
];

/// A rule of a preset with the reason for it.
#[derive(Clone, Debug)]
pub struct Reasoned {
    /// The rule.
    pub rule: Rule,
    /// Line of the preset's file, from 1.
    pub line: usize,
    /// Why it is there.
    pub why: String,
}

/// The rules of each preset, in the order of [`PRESETS`].
static RULES: LazyLock<Vec<Vec<Reasoned>>> = LazyLock::new(|| PRESETS.iter().map(Preset::read).collect());

/// The names of all.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}

/// The preset of this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// The presets that allow `name` (lower-case A-labels) at `port` over `protocol` (of
/// [`agentnet_common::addr::protocols`]), the one with the fewest rules first.
pub fn allowing(name: &str, protocol: u8, port: u16) -> Vec<&'static str> {
    let allows = |reasoned: &Reasoned| {
        let Reasoned { rule, .. } = reasoned;
        rule.name().is_some_and(|pattern| pattern.matches(name)) && rule.traffic().contains(protocol, port)
    };
    let all = PRESETS.iter().zip(&*RULES);
    let mut found: Vec<_> = all.filter(|(_, rules)| rules.iter().any(allows)).collect();
    found.sort_by_key(|(_, rules)| rules.len());
    found.into_iter().map(|(preset, _)| preset.name).collect()
}

impl Preset {
    /// What stands for its file in messages.
    pub fn file(&self) -> String {
        format!("<preset:{}>", self.name)
    }

    /// What it is for.
    pub fn about(&self) -> String {
        self.paragraphs().into_iter().next().unwrap_or_default()
    }

    /// What it opens as a channel.
    pub fn channel(&self) -> String {
        let mut paragraphs = self.paragraphs().into_iter();
        paragraphs.find_map(|text| text.strip_prefix(CHANNEL).map(str::to_owned)).unwrap_or_default()
    }

    /// Its rules.
    pub fn rules(&self) -> &'static [Reasoned] {
        let at = PRESETS.iter().position(|preset| preset.name == self.name);
        at.and_then(|at| RULES.get(at)).map_or(&[], Vec::as_slice)
    }

    /// The comment at its beginning.
    fn paragraphs(&self) -> Vec<String> {
        let lines: Vec<_> = self.text.lines().map_while(comment).collect();
        lines.split(|line| line.is_empty()).map(|lines| lines.join(" ")).collect()
    }

    fn read(&self) -> Vec<Reasoned> {
        let mut problems = Vec::new();
        let Some(document) = Document::parse(self.text, &mut problems) else { return Vec::new() };
        let source = Source::new(self.file(), self.text);
        let rules = Valid::check(&[Part { file: FileId::MAIN, document }], &mut problems).rules;
        let reasoned = rules.into_iter().map(|rule| {
            let line = source.line(rule.place.span.start);
            Reasoned { why: comment_above(self.text, line), line, rule }
        });
        reasoned.collect()
    }
}

/// Begins the paragraph that says what a preset opens as a channel.
const CHANNEL: &str = "Channel: ";

/// The text of a line that is a comment.
fn comment(line: &str) -> Option<&str> {
    line.strip_prefix('#').map(str::trim)
}

/// The comment right above a line, which counts from 1.
fn comment_above(text: &str, line: usize) -> String {
    let above: Vec<_> = text.lines().take(line.saturating_sub(1)).collect();
    let mut comment: Vec<_> = above.iter().rev().map_while(|line| comment(line)).collect();
    comment.reverse();
    comment.join(" ")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, path::Path};

    use agentnet_common::addr::protocols::{TCP, UDP};

    use super::{PRESETS, allowing, find, names};
    use crate::policy::{
        Policy,
        traffic::{PortSet, Traffic},
        validate::{Effect, is_policy_name},
    };

    #[test]
    fn every_preset_says_what_it_is_what_it_opens_and_why_each_rule_is_there() {
        for preset in PRESETS {
            let policy = Policy::from_text(&preset.file(), preset.text, &[]).unwrap();
            assert!(policy.warnings.items().is_empty(), "{}", policy.warnings);
            assert_eq!(policy.compiled.name, preset.name);
            assert!(is_policy_name(preset.name));
            assert!(preset.about().len() > 10 && !preset.about().starts_with("Channel"), "{}", preset.name);
            assert!(preset.channel().len() > 20, "{} does not say what it opens", preset.name);
            let rules = preset.rules();
            assert_eq!(rules.len(), policy.compiled.rules.len());
            assert!(!rules.is_empty());
            for (reasoned, info) in rules.iter().zip(&policy.compiled.rules) {
                assert!(reasoned.why.len() >= 7, "{}:{} has no reason", preset.name, reasoned.line);
                assert_eq!(reasoned.line, info.line as usize);
                assert_eq!(reasoned.rule.effect, Effect::Allow);
                assert!(reasoned.rule.name().is_some_and(|name| !name.is_wide()));
                // HTTPS; SSH of code hosts; HTTP where packages are signed.
                let usual = Traffic::new(TCP, &PortSet::of([(22, 22), (80, 80), (443, 443)]));
                assert!(reasoned.rule.traffic().minus(&usual).is_empty(), "{}", reasoned.rule);
            }
            // Nothing but rules: a preset changes nothing else of a policy.
            for key in ["mode", "[local]", "[dns]", "[[agents]]", "extends", "presets =", "[[egress.deny]]"] {
                assert!(!preset.text.lines().any(|line| line.starts_with(key)), "{}: {key}", preset.name);
            }
        }
    }

    #[test]
    fn every_file_is_a_preset() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/presets");
        let files: HashSet<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let known: HashSet<_> = names().map(|name| format!("{name}.toml")).collect();
        assert_eq!(files, known);
        assert!(names().is_sorted());
    }

    #[test]
    fn it_is_known_which_preset_allows_a_name() {
        assert_eq!(allowing("pypi.org", TCP, 443), ["pypi"]);
        assert_eq!(allowing("api.anthropic.com", TCP, 443), ["anthropic", "claude-code"]);
        assert_eq!(allowing("mine.openai.azure.com", TCP, 443), ["azure-openai"]);
        assert_eq!(allowing("github.com", TCP, 22), ["github"]);
        assert_eq!(allowing("pypi.org", UDP, 443), [""; 0]);
        assert_eq!(allowing("gist.github.com", TCP, 443), [""; 0]);
    }

    #[test]
    fn reasons_are_those_above_the_rules() {
        let github = find("github").unwrap();
        let ssh = &github.rules()[1];
        assert_eq!((ssh.why.as_str(), ssh.rule.to_string().as_str()), ("git over SSH.", "github.com tcp 22"));
        assert!(github.channel().contains("gists"));
        assert!(find("nothing").is_none());
    }
}
