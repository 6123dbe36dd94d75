//! The result as people read it: tables in Markdown.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::{pairs::Comparison, programs::Cost, start, stats::Estimate};

/// Least acceptable lower end of a ratio.
const GOAL_RATIO: f64 = 0.95;

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Release of the running kernel.
    pub kernel: String,
    /// Number of CPUs.
    pub cpus: usize,
    /// Costs of programs.
    pub programs: Vec<Cost>,
    /// Pairs, controls among them.
    pub comparisons: Vec<Comparison>,
    /// From the start of `agentnet run` to that of its command, milliseconds.
    pub start: Estimate,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "Linux {}, {} CPUs.\n", self.kernel, self.cpus)?;
        writeln!(f, "| load | program | runs | ns a run | less an empty program |")?;
        writeln!(f, "| --- | --- | ---: | ---: | ---: |")?;
        for cost in &self.programs {
            let Cost { load, program, runs, gross, net } = cost;
            writeln!(f, "| {load} | `{program}` | {runs} | {gross:.0} | {net:.0} |")?;
        }
        writeln!(f, "\n| measure | without | with | ratio (95 % interval) | goal |")?;
        writeln!(f, "| --- | ---: | ---: | --- | --- |")?;
        for comparison in &self.comparisons {
            let (without, with) = comparison.medians();
            let (measure, ratio) = (comparison.measure, comparison.ratio);
            let (name, goal) = match (comparison.control, ratio.low >= GOAL_RATIO) {
                (true, _) => ("control: ", "-"),
                (false, true) => ("", "met"),
                (false, false) => ("", "missed"),
            };
            writeln!(
                f,
                "| {name}{} | {} | {} | {:.3} ({:.3} to {:.3}) | {goal} |",
                measure.label(),
                measure.show(without),
                measure.show(with),
                ratio.median,
                ratio.low,
                ratio.high
            )?;
        }
        let Estimate { median, low, high } = self.start;
        let goal = if median < start::GOAL { "met" } else { "missed" };
        writeln!(f, "\n| measure | result (95 % interval) | goal |")?;
        writeln!(f, "| --- | --- | --- |")?;
        writeln!(
            f,
            "| `agentnet run`, until its command runs | {median:.0} ms ({low:.0} to {high:.0}) | {goal} |"
        )
    }
}
