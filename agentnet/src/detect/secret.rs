//! D7: secrets that leave: this host's own, and those whose form says what they are.

use super::{
    evidence::{self, Evidence},
    finding::{Statement, Strength},
    registry::Detector,
    scene::{Bytes, DnsScene, Request, Scene},
    secrets::{self, Found, Tier},
};

/// See the module.
#[derive(Debug)]
pub struct Secret;

/// Bytes kept of a stream, so that a secret which is cut between two samples is found.
pub const TAIL: usize = 256;

impl Detector for Secret {
    fn id(&self) -> &'static str {
        "secret"
    }

    fn weight(&self) -> f32 {
        1.0
    }

    fn on_dns(&self, scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>) {
        // No secret is shorter, and most names are.
        if !dns.view.is_query || dns.sub.len() < secrets::host::SHORTEST || scene.is_known(dns) {
            return;
        }
        // What says less than the shortest of them has none.
        if dns.information.in_bytes() < 8 {
            return;
        }
        let joined: Vec<u8> = dns.sub.iter().copied().filter(|&byte| byte != b'.').collect();
        let own = scene.config.secrets.as_deref();
        // No token of a kind is so short; a secret of this host may be.
        let found =
            if joined.len() >= 20 || own.is_some() { secrets::find(&joined, own) } else { Vec::new() };
        for found in &found {
            tell(
                scene,
                &Place { subject: dns.base.display(), key: dns.key, what: "a name it looked up" },
                found,
            );
        }
    }

    fn on_request(&self, scene: &mut Scene<'_, '_>, request: &Request<'_>) {
        let own = scene.config.secrets.as_deref();
        let key = request.key;
        let mut look = |what: &'static str, bytes: &[u8], is_credential: bool| {
            for found in secrets::find(bytes, own) {
                let generic = found.rule == "assignment" && (request.popular || is_signed(request.target));
                if is_credential && belongs(&found, request.host) || is_signature(&found) || generic {
                    continue;
                }
                let place = Place { subject: request.subject(), key, what };
                tell(scene, &place, &found);
            }
        };
        look("the address of a request", request.target, false);
        for (name, value) in &request.headers {
            let credential = is_credential(name);
            let what = if name.eq_ignore_ascii_case("cookie") { "a cookie" } else { "a header of a request" };
            look(what, value, credential);
        }
    }

    fn on_bytes(&self, scene: &mut Scene<'_, '_>, bytes: &Bytes<'_>) {
        let own = scene.config.secrets.as_deref();
        for found in secrets::find(bytes.bytes, own) {
            if is_signature(&found) {
                continue;
            }
            let place = Place { subject: bytes.subject.to_owned(), key: bytes.key, what: bytes.what };
            tell(scene, &place, &found);
        }
    }
}

/// Where a secret was found.
struct Place<'a> {
    subject: String,
    key: &'a [u8],
    what: &'static str,
}

/// Headers in which a client says who it is.
fn is_credential(name: &str) -> bool {
    [
        "authorization",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "private-token",
        "x-auth-token",
        "cookie",
        "x-amz-security-token",
        "job-token",
        "x-vault-token",
        "circle-token",
    ]
    .iter()
    .any(|one| name.eq_ignore_ascii_case(one))
}

/// Whether a secret goes to who issued it. Who issued a JWT, nobody else knows.
fn belongs(found: &Found, host: &[u8]) -> bool {
    let host = host.to_ascii_lowercase();
    let host = std::str::from_utf8(&host)
        .unwrap_or_default()
        .rsplit_once(':')
        .map_or_else(|| String::from_utf8_lossy(&host).into_owned(), |(name, _)| name.to_owned());
    if found.own {
        return false;
    }
    let ends = |zone: &&str| super::domains::ends_with_labels(host.as_bytes(), zone.as_bytes());
    found.hosts.iter().any(ends) || found.hosts.is_empty() && found.rule != "private_key"
}

/// Whether an address is signed: its parameters are what a service gave its client to say.
fn is_signed(target: &[u8]) -> bool {
    let lower = String::from_utf8_lossy(target).to_ascii_lowercase();
    ["signature=", "x-amz-", "x-goog-", "sig=", "key-pair-id="].iter().any(|mark| lower.contains(mark))
}

/// Whether an access key is part of a signed URL: what signs it stays at home.
fn is_signature(found: &Found) -> bool {
    let before = String::from_utf8_lossy(&found.before).to_ascii_lowercase();
    found.rule == "aws_access_key_id"
        && ["x-amz-credential=", "awsaccesskeyid=", "credential=", "googleaccessid="]
            .iter()
            .any(|name| before.ends_with(name))
        || found.rule == "azure_sas"
}

fn tell(scene: &mut Scene<'_, '_>, place: &Place<'_>, found: &Found) {
    let (strength, score) = match found.tier {
        Tier::Certain => (Strength::Block, 1.0),
        Tier::Context => (Strength::Alert, 0.8),
        Tier::Doubtful => (Strength::Hint, 0.2),
    };
    let fingerprint = scene.ledger.fingerprint(&found.secret);
    let left = scene.event.bytes_left();
    scene.findings.add(place.key, fingerprint.as_bytes(), (strength, score), || {
        let kind = if found.own { "the secret" } else { "what looks like a secret of kind" };
        let coded = match found.encoding.as_str() {
            "raw" => String::new(),
            encoding => format!(", encoded as {encoding}"),
        };
        Statement {
            subject: place.subject.clone(),
            reason: format!(
                "sent {kind} {} to {} in {}{coded}",
                super::super::alert::text::clean(&found.rule, 80),
                place.subject,
                place.what
            ),
            advice: "if it is one, replace it now: it must be taken for known to others",
            evidence: Evidence::Secret(evidence::Secret {
                rule: found.rule.to_string(),
                own: found.own,
                encoding: found.encoding.clone(),
                place: place.what.into(),
                sample: super::dns_query::sample(&found.secret),
                bytes: found.secret.len(),
                fingerprint: fingerprint.clone(),
                bytes_before_block: left,
            }),
        }
    });
}
