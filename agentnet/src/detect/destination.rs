//! D14: destinations of a class, by lists.

use super::{
    domains::Class,
    evidence::{self, Evidence},
    finding::{Statement, Strength},
    name::display,
    registry::Detector,
    scene::{DnsScene, Request, Scene},
};

/// See the module.
#[derive(Debug)]
pub struct DestinationClass;

impl Detector for DestinationClass {
    fn id(&self) -> &'static str {
        "destination_class"
    }

    fn weight(&self) -> f32 {
        0.6
    }

    fn on_dns(&self, scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>) {
        let Some(class) = dns.classes.gravest() else { return };
        if !dns.view.is_query {
            return;
        }
        let worth = worth(class);
        scene.findings.add(dns.key, dns.listed, worth, || {
            statement(class, "looked up", &dns.view.name.display(), dns.listed)
        });
    }

    fn on_request(&self, scene: &mut Scene<'_, '_>, request: &Request<'_>) {
        let Some(class) = request.classes.gravest() else { return };
        scene.findings.add(request.key, request.listed, worth(class), || {
            statement(class, "sent a request to", &request.subject(), request.listed)
        });
    }
}

/// What a class is worth by itself.
const fn worth(class: Class) -> (Strength, f32) {
    match class {
        Class::Oast | Class::RequestBin | Class::Tunnel => (Strength::Block, 1.0),
        Class::Paste | Class::Bot => (Strength::Alert, 0.8),
        // Browsers look these up to see whether they could.
        Class::EncryptedDns | Class::DynamicDns | Class::Ipfs => (Strength::Hint, 0.5),
        Class::TrustedSite | Class::Shortener | Class::IpEcho | Class::LinkInBio => (Strength::Hint, 0.2),
    }
}

fn statement(class: Class, did: &str, name: &str, listed: &[u8]) -> Statement {
    Statement {
        subject: display(listed),
        reason: format!("{did} {name}, {}", class.what()),
        advice: "if the agent's work needs it, allow the name in the policy; else block it",
        evidence: Evidence::Destination(evidence::Destination {
            name: name.to_owned(),
            class: class.label().into(),
            listed: display(listed),
        }),
    }
}
