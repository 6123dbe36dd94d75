//! Which data of records follows a grammar that says what it is for.

use super::rtype;

/// Starts of TXT records that have a meaning (RFC 7208, 6376, 7489, 8461, 8460 and verification tokens of
/// services), in lower case.
const KNOWN: &[&[u8]] = &[
    b"v=spf1",
    b"spf2.0/",
    b"v=dkim1",
    b"v=dmarc1",
    b"v=stsv1",
    b"v=tlsrptv1",
    b"v=bimi1",
    b"v=arc1",
    b"k=rsa",
    b"k=ed25519",
    b"ms=",
    b"google-site-verification=",
    b"google-gws-recovery-domain-verification=",
    b"facebook-domain-verification=",
    b"apple-domain-verification=",
    b"globalsign-domain-verification=",
    b"docusign=",
    b"adobe-idp-site-verification=",
    b"adobe-sign-verification=",
    b"atlassian-domain-verification=",
    b"amazonses:",
    b"stripe-verification=",
    b"dropbox-domain-verification=",
    b"yandex-verification:",
    b"zoom_verify_",
    b"zoom-domain-verification=",
    b"openai-domain-verification=",
    b"anthropic-domain-verification",
    b"_globalsign",
    b"cisco-ci-domain-verification=",
    b"status-page-domain",
    b"onetrust-domain-verification=",
    b"slack-domain-verification=",
    b"miro-verification=",
    b"dnslink=",
    b"v=verifydomain",
    b"protonmail-verification=",
    b"have-i-been-pwned-verification=",
    b"pardot",
    b"t=",
];

/// Bytes of a TXT record that grammars need at most: DKIM keys of 4096 bits.
const MAX_KNOWN: usize = 900;
/// A target in a CNAME, MX, NS, PTR or SRV record longer than names of servers are.
const LONG_TARGET: usize = 100;

/// Whether data of this type is free for its sender to choose: text, keys, anything. Programs ask for such types seldom,
/// and tunnels always.
pub(in crate::detect) const fn is_free(rtype: u16) -> bool {
    matches!(
        rtype,
        rtype::TXT
            | rtype::NULL
            | rtype::KEY
            | rtype::SPF
            | rtype::CERT
            | rtype::OPENPGPKEY
            | rtype::PRIVATE..
    )
}

/// Bytes of a record's data that its sender may have chosen freely.
pub(super) fn opaque_bytes(rtype: u16, data: &[u8]) -> u32 {
    let free = match rtype {
        rtype::TXT | rtype::SPF => {
            let text = data.get(1..).unwrap_or_default();
            if is_known_text(text) { 0 } else { text.len() }
        }
        rtype::CNAME | rtype::MX | rtype::SRV | rtype::NS | rtype::PTR if data.len() > LONG_TARGET => {
            data.len()
        }
        _ if is_free(rtype) => data.len(),
        _ => 0,
    };
    u32::try_from(free).unwrap_or(u32::MAX)
}

fn is_known_text(text: &[u8]) -> bool {
    // ACME DNS-01: the unpadded base64url of a SHA-256 (RFC 8555, 8.4).
    let acme = text.len() == 43
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    acme || text.len() <= MAX_KNOWN
        && KNOWN
            .iter()
            .any(|known| text.get(..known.len()).is_some_and(|start| start.eq_ignore_ascii_case(known)))
}
