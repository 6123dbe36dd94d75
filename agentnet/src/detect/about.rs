//! What names were found to be: the same ones are looked up again and again.

use std::hash::Hasher as _;

use super::{
    domains::{Base, BaseKind, Class, Classes, Types, infrastructure},
    ledger::Keys,
    lm::{Bits, Case, HOSTS},
};

/// Labels of a name of which each one's information is remembered.
pub(super) const LABELS: usize = 6;

/// Names remembered.
const NAMES: usize = 1024;

/// What a name is; places are counted from its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    hash: u64,
    base: usize,
    sub: usize,
    kind: BaseKind,
    pub(super) popular: bool,
    pub(super) infrastructure: Types,
    pub(super) classes: Classes,
    listed: usize,
    pub(super) information: Bits,
    /// That of the first labels before the base, each.
    pub(super) said: [Bits; LABELS],
}

impl About {
    fn new(text: &[u8], hash: u64) -> Self {
        let base = Base::of_text(text);
        let (classes, listed) = Class::of(text);
        let (mut information, mut said) = (Bits::default(), [Bits::default(); LABELS]);
        if base.kind != BaseKind::Reverse {
            for (at, label) in base.sub_of(text).split(|&byte| byte == b'.').enumerate() {
                let bits = HOSTS.token(label, Case::Folded);
                information = information.plus(bits);
                if let Some(place) = said.get_mut(at) {
                    *place = bits;
                }
            }
        }
        Self {
            hash,
            base: base.name.len(),
            sub: base.sub,
            kind: base.kind,
            popular: base.is_popular(),
            infrastructure: infrastructure(text),
            classes,
            listed: listed.len(),
            information,
            said,
        }
    }

    /// The base of the name.
    pub(super) fn base<'a>(&self, text: &'a [u8]) -> Base<'a> {
        Base { name: end(text, self.base), sub: self.sub, kind: self.kind }
    }

    /// The listed name behind the classes.
    pub(super) fn listed<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        end(text, self.listed)
    }
}

fn end(text: &[u8], length: usize) -> &[u8] {
    text.get(text.len().saturating_sub(length)..).unwrap_or(text)
}

/// What the names seen lately are.
#[derive(Debug, Default)]
pub(super) struct Abouts {
    places: Vec<Option<About>>,
}

impl Abouts {
    /// What a name in lower case is.
    pub(super) fn of(&mut self, text: &[u8], keys: Keys) -> About {
        let hash = keys.hash(|hasher| hasher.write(text));
        if self.places.is_empty() {
            self.places = vec![None; NAMES];
        }
        let at = usize::try_from(hash >> 32).unwrap_or(0) % NAMES;
        let Some(place) = self.places.get_mut(at) else { return About::new(text, hash) };
        match place {
            Some(about) if about.hash == hash => *about,
            _ => *place.insert(About::new(text, hash)),
        }
    }
}
