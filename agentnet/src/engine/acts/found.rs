//! What detectors find, closed like what people close by hand: by the same ledger, and taken back the same way.

use std::time::Duration;

use jiff::Timestamp;

use super::super::state::Engine;
use crate::{
    act::{self, Act, MAX_REASON, What},
    alert::{model::Kind, text::clean},
    policy::net::Net,
};

impl Engine {
    /// Closes `what` for an agent, for `length` or until it is taken back, because of a finding. What holds longer
    /// already stays as it is.
    ///
    /// # Errors
    /// Why the kernel does not hold it; nothing was changed then.
    pub(in crate::engine) fn close_found(
        &mut self,
        id: u32,
        what: What,
        length: Option<Duration>,
        (kind, reason): (Kind, &str),
    ) -> Result<(), String> {
        let Some(agent) = self.agents.get(&id) else { return Err("the agent is gone".to_owned()) };
        let name = agent.name.clone();
        let (until, expiry) = act::end(length);
        let lasts =
            |act: &Act| act.expiry == 0 || expiry != 0 && act.expiry.saturating_add(RENEWED) >= expiry;
        if self.acts.ledger.of(&name).any(|act| act.what == what && lasts(act)) {
            return Ok(());
        }
        let act = Act {
            id: self.acts.ledger.next_id(),
            what,
            agent: Some(name),
            by: None,
            detection: Some(kind.label().to_owned()),
            reason: Some(clean(reason, MAX_REASON)).filter(|reason| !reason.is_empty()),
            since: Timestamp::now(),
            until,
            expiry,
        };
        let replaced = self.acts.ledger.add(act.clone())?;
        if let Err(error) = self.put_acts(id) {
            return Err(self.take_back(&act, replaced, &[error.to_string()]).to_string());
        }
        tracing::info!(%act, "by detection");
        let mut acted = self.acted(&act);
        self.close(&[id], act.blocks().filter(|net| *net != Net::ROOT), &mut acted);
        if let Err(why) = self.keep_acts() {
            self.problem(why);
        }
        Ok(())
    }
}

/// What ends so much later is not worth to be written anew, nanoseconds.
const RENEWED: u64 = 1_800_000_000_000;
