//! What has to be spoken on a connection that a name has opened: `app`, `sni`, `ech` and `quic`.
//!
//! An address is shared by many names: that it was resolved from an allowed one says who may be asked, not who is. On
//! the ports of TLS and HTTP the client says itself whom it asks, and that can be held to the rules.

use std::fmt;

use agentnet_common::abi::SPEAKS_TLS;

use super::{
    parse::Field,
    schema::{self, Choice, QUIC_ALLOW},
    traffic::PortSet,
};

/// Ports on which a rule is about TLS unless it says something else: HTTPS (443), its usual alternative (8443), and DNS
/// over TLS (853, RFC 7858).
pub const TLS_PORTS: &[u16] = &[443, 853, 8443];

/// The same of HTTP: 80, and its usual alternative.
pub const HTTP_PORTS: &[u16] = &[80, 8080];

/// What a rule says, or `[tls]` for all rules; `None` where it says nothing. The values are the codes of
/// [`schema::APP`], [`schema::SNI`], [`schema::ECH`] and [`schema::QUIC`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spoken {
    /// `app`.
    pub app: Option<u8>,
    /// `sni`.
    pub sni: Option<u8>,
    /// `ech`.
    pub ech: Option<u8>,
    /// `quic`.
    pub quic: Option<u8>,
}

impl Spoken {
    /// Nothing is asked for: of a rule for addresses, which has no name that could be spoken.
    pub const ANYTHING: Self = Self { app: Some(0), sni: None, ech: None, quic: None };

    /// This, and where it says nothing what `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            app: self.app.or(other.app),
            sni: self.sni.or(other.sni),
            ech: self.ech.or(other.ech),
            quic: self.quic.or(other.quic),
        }
    }

    /// What a TCP connection to `port` has to speak, `SPEAKS_*` of [`agentnet_common::abi`].
    pub fn at(&self, port: u16) -> u8 {
        let parts = self.parts(&PortSet::of([(port, port)]));
        parts.into_iter().find(|(_, ports)| !ports.is_empty()).map_or(0, |(speaks, _)| speaks)
    }

    /// `ports` by what TCP connections to them have to speak.
    pub fn parts(&self, ports: &PortSet) -> Vec<(u8, PortSet)> {
        let single = |ports: &[u16]| PortSet::of(ports.iter().map(|&port| (port, port)));
        let Some(app) = self.app else {
            let (tls, http) = (ports.and(&single(TLS_PORTS)), ports.and(&single(HTTP_PORTS)));
            let rest = ports.minus(&tls).minus(&http);
            return vec![(self.tls(), tls), (schema::code(schema::APP, "http"), http), (0, rest)];
        };
        vec![(if app == SPEAKS_TLS { self.tls() } else { app }, ports.clone())]
    }

    /// Those of `ports` on which TLS has to be spoken.
    pub fn tls_ports(&self, ports: &PortSet) -> PortSet {
        let of_tls = self.parts(ports).into_iter().filter(|(speaks, _)| speaks & SPEAKS_TLS != 0);
        PortSet::of(of_tls.flat_map(|(_, ports)| ports.ranges().to_vec()))
    }

    /// Whether UDP is open where TLS has to be spoken.
    pub fn allows_quic(&self) -> bool {
        self.quic == Some(QUIC_ALLOW)
    }

    fn tls(&self) -> u8 {
        SPEAKS_TLS | self.sni.unwrap_or_default() | self.ech.unwrap_or_default()
    }

    /// The keys and their words.
    fn written(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let keys: [(&str, Option<u8>, &[Choice]); 4] = [
            ("app", self.app, schema::APP),
            ("sni", self.sni, schema::SNI),
            ("ech", self.ech, schema::ECH),
            ("quic", self.quic, schema::QUIC),
        ];
        keys.into_iter().filter_map(|(key, code, choices)| Some((key, schema::word(choices, code?)?)))
    }
}

impl From<&SpokenText> for Spoken {
    /// What is right in it.
    fn from(text: &SpokenText) -> Self {
        let code = |field: &Field<u8>| field.value().map(|value| *value.get_ref());
        Self { app: code(&text.app), sni: code(&text.sni), ech: code(&text.ech), quic: code(&text.quic) }
    }
}

/// The same as written.
#[derive(Debug, Default)]
pub struct SpokenText {
    /// `app`.
    pub app: Field<u8>,
    /// `sni`.
    pub sni: Field<u8>,
    /// `ech`.
    pub ech: Field<u8>,
    /// `quic`.
    pub quic: Field<u8>,
}

impl SpokenText {
    /// The keys that have a right value.
    pub fn keys(&self) -> impl Iterator<Item = (&'static str, &toml::Spanned<u8>)> {
        let keys = [("app", &self.app), ("sni", &self.sni), ("ech", &self.ech), ("quic", &self.quic)];
        keys.into_iter().filter_map(|(key, field)| Some((key, field.value()?)))
    }
}

impl fmt::Display for Spoken {
    /// `app any, ech allow`: what is not as it is by default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self.written().filter(|(key, word)| *key == "app" || !schema::is_default(key, word));
        f.write_str(&said.map(|(key, word)| format!("{key} {word}")).collect::<Vec<_>>().join(", "))
    }
}
