//! The engine of a running agentnet: one task owns all mutable state.
