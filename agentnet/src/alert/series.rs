//! Allowed flows that the kernel only counts, see [`agentnet_common::abi::Series`].

use std::collections::HashMap;

use agentnet_common::event::VerdictEvent;

/// What was told of each series of an agent.
#[derive(Clone, Debug, Default)]
pub struct SeriesTold {
    /// By CPU and time of the first flow.
    told: HashMap<(u32, u64), u32>,
    /// Whether what is seen first may have been told by the engine before this one.
    resumed: bool,
}

impl SeriesTold {
    /// For an agent that another engine has watched until now.
    pub fn resumed() -> Self {
        Self { resumed: true, ..Self::default() }
    }

    /// How many flows of the series that `record` is about were not told yet.
    pub fn news(&mut self, record: &VerdictEvent) -> u64 {
        let told = self.told.entry(name(record)).or_default();
        // A record may be read after the kernel was asked for the total.
        let news = record.total.saturating_sub(*told);
        *told = record.total.max(*told);
        news.into()
    }

    /// Takes all series that the kernel follows: how many flows of each were not told yet. Others have ended.
    pub fn look<'a>(&mut self, all: &'a [VerdictEvent]) -> Vec<(&'a VerdictEvent, u64)> {
        if std::mem::take(&mut self.resumed) {
            self.told.extend(all.iter().map(|record| (name(record), record.total)));
        }
        let news =
            all.iter().map(|record| (record, self.news(record))).filter(|(_, news)| *news > 0).collect();
        self.told.retain(|key, _| all.iter().any(|record| name(record) == *key));
        news
    }
}

const fn name(record: &VerdictEvent) -> (u32, u64) {
    (record.header.cpu, record.header.time)
}
