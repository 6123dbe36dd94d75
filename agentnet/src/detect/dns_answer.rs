//! D3: the way back. Answers that carry data, and types that are asked for only to get it.

use super::{
    dns::is_free,
    domains::BaseKind,
    evidence::{self, Evidence},
    finding::{Statement, Strength},
    ledger::{Entry, Lane, Span},
    lm::Bits,
    registry::Detector,
    scene::{DnsScene, Scene},
};

/// See the module.
#[derive(Debug)]
pub struct DnsAnswer;

/// Queries of types that carry data, to one domain within 2 minutes. Benign: at most 3 a minute.
const QUERIES: u32 = 20;
/// Data in answers that follows no grammar, from one domain within 10 minutes.
const BYTES: u32 = 2048;
/// The same from a domain that is often visited.
const POPULAR: u32 = 8;

impl Detector for DnsAnswer {
    fn id(&self) -> &'static str {
        "dns_answer"
    }

    fn weight(&self) -> f32 {
        0.5
    }

    fn on_dns(&self, scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>) {
        let opaque = dns.view.answer.map_or(0, |answer| answer.opaque);
        let carries = dns.view.is_query && is_free(dns.view.rtype);
        if (opaque == 0 && !carries) || dns.infrastructure || dns.base.kind == BaseKind::Reverse {
            return;
        }
        let now = scene.now();
        let one = |bits, items| Entry { bits, characters: 0, items };
        let answers = scene.ledger.enter(Lane::DnsAnswer, dns.key, one(Bits::bytes(opaque), 1), now);
        let bytes = answers.sums.of(Span::Minutes10, now).in_bytes();
        // A query counts as one byte: the windows hold bytes.
        let asked = scene.ledger.enter(Lane::DnsType, dns.key, one(Bits::bytes(u32::from(carries)), 1), now);
        let queries = asked.sums.of(Span::Minutes2, now).in_bytes();

        let factor = if dns.popular { POPULAR } else { 1 };
        let (many, much) = (queries >= QUERIES * factor, bytes >= BYTES * factor);
        let score = match (many, much) {
            (true, true) => 1.0,
            (true, false) | (false, true) => 0.8,
            (false, false) => return,
        };
        let record_type = type_name(dns.view.rtype);
        scene.findings.add(dns.key, &[], (Strength::Alert, score), || {
            let domain = dns.base.display();
            Statement {
                reason: if much {
                    format!(
                        "got {bytes} bytes of data in DNS answers from {domain} within 10 minutes that follow \
                         no known use of such records"
                    )
                } else {
                    format!(
                        "asked {domain} for records that carry data ({record_type}) {queries} times within 2 \
                         minutes"
                    )
                },
                advice: "read one of the answers: commands and files come this way; if nothing needs it, block \
                         the domain",
                evidence: Evidence::DnsAnswer(evidence::DnsAnswer {
                    query: dns.view.name.display(),
                    record_type: record_type.into(),
                    answer_bytes: bytes,
                    queries,
                    window_seconds: Span::Minutes10.seconds(),
                    popular: dns.popular,
                    domain: domain.clone(),
                }),
                subject: domain,
            }
        });
    }
}

/// The name of a type, or its number as RFC 3597 writes it.
pub(super) fn type_name(rtype: u16) -> String {
    domain::base::iana::Rtype::from_int(rtype).to_string()
}
