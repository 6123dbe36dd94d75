//! D4: DNS messages that are not as messages are, and resolvers that are not the policy's.

use super::{
    dns::{Fault, Faults},
    evidence::{self, Evidence},
    finding::{Statement, Strength},
    registry::Detector,
    scene::{DnsScene, Scene},
};

/// See the module.
#[derive(Debug)]
pub struct DnsAnomaly;

impl Detector for DnsAnomaly {
    fn id(&self) -> &'static str {
        "dns_anomaly"
    }

    fn weight(&self) -> f32 {
        0.4
    }

    fn on_dns(&self, scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>) {
        let remote = scene.event.flow.remote;
        let foreign = dns.view.is_query && scene.config.is_foreign_resolver(remote.ip());
        let faults = dns.view.faults;
        if faults.is_empty() && !foreign {
            return;
        }
        let score = if foreign { 1.0 } else { weigh(faults, dns.view.is_query) };
        let strength = if score >= 0.6 { Strength::Alert } else { Strength::Hint };
        let labels = || {
            let foreign = foreign.then_some("foreign_resolver");
            foreign.into_iter().chain(faults.iter().map(Fault::label))
        };
        let what = labels().next().unwrap_or_default();
        scene.findings.add(dns.key, what.as_bytes(), (strength, score), || {
            let domain = dns.base.display();
            let mut wrong: Vec<String> = faults.iter().map(|fault| fault.what().to_owned()).collect();
            if foreign {
                wrong.insert(0, format!("{} is no resolver of the policy", remote.ip()));
            }
            let verb = if dns.view.is_query { "sent a DNS message for" } else { "got a DNS answer for" };
            let shown = if dns.view.name.is_empty() { "no name".to_owned() } else { dns.view.name.display() };
            Statement {
                reason: format!("{verb} {shown}: {}", wrong.join(", ")),
                advice: "resolvers of operating systems send no such messages: look at the program that does",
                evidence: Evidence::DnsAnomaly(evidence::DnsAnomaly {
                    query: shown,
                    faults: labels().map(Into::into).collect(),
                    unexplained_bytes: dns.view.unexplained,
                    message_bytes: dns.view.bytes,
                }),
                subject: if dns.view.name.is_empty() { remote.ip().to_string() } else { domain },
            }
        });
    }
}

/// What faults are worth together.
fn weigh(faults: Faults, is_query: bool) -> f32 {
    let worth = |fault| match fault {
        Fault::PaddingData | Fault::Oversized | Fault::TooMany => 0.9,
        Fault::Malformed | Fault::Option | Fault::AnswersInQuery => 0.7,
        Fault::Padding | Fault::Trailing if is_query => 0.7,
        Fault::Padding | Fault::Trailing | Fault::Questions | Fault::Long => 0.4,
        Fault::Bytes | Fault::Labels | Fault::Reserved => 0.3,
        // Servers tell each other of changes, and a question for the version of a server has a class of its own.
        Fault::Opcode | Fault::Class => 0.2,
    };
    1.0 - faults.iter().map(|fault| 1.0 - worth(fault)).product::<f32>()
}
