//! Kernel records turned into what people and machines read.
//!
//! [`pipeline`] takes a decoded record and answers with an [`model::Alert`] or a [`model::Flow`]: [`class`]
//! says what a reason means, [`sentence`] puts it into words, [`fold`] joins repeats, those that
//! the kernel has only counted ([`series`]) included, [`loss`] and [`sequence`] notice what did not arrive, [`summary`] adds everything up. [`render`]
//! writes for a terminal; [`crate::store`] keeps JSON lines. Only the pipeline's look at `/proc` touches the
//! system; time is always handed in.

pub mod by_hand;
pub mod class;
pub mod clock;
pub mod community;
pub mod detection;
pub mod door;
pub mod explain;
pub mod fold;
pub mod id;
pub mod learn;
pub mod loss;
pub mod model;
pub mod names;
pub mod pipeline;
pub mod query;
pub mod render;
pub mod resolved;
pub mod sentence;
pub mod sequence;
pub mod series;
pub mod summary;
pub mod text;
mod verdict;

pub(crate) use verdict::who;

#[cfg(test)]
mod tests;
