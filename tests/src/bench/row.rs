//! Rows of tables of figures with goals.

use std::fmt;

/// A row: what was measured, the result, the goal, and whether it was met.
#[derive(Clone, Debug)]
pub struct Row {
    /// What.
    pub what: String,
    /// The result.
    pub result: String,
    /// The goal; empty if there is none.
    pub goal: String,
    /// Whether it was met, if there is one.
    pub met: Option<bool>,
}

impl Row {
    /// A row.
    pub fn new(
        what: impl Into<String>,
        result: impl Into<String>,
        goal: impl Into<String>,
        met: Option<bool>,
    ) -> Self {
        Self { what: what.into(), result: result.into(), goal: goal.into(), met }
    }
}

/// A table in Markdown.
#[derive(Clone, Debug)]
pub struct Table(pub Vec<Row>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| measure | result | goal | |\n| --- | --- | --- | --- |")?;
        for Row { what, result, goal, met } in &self.0 {
            let met = match met {
                Some(true) => "met",
                Some(false) => "missed",
                None => "-",
            };
            writeln!(f, "| {what} | {result} | {goal} | {met} |")?;
        }
        Ok(())
    }
}
