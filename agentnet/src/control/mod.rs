//! Requests and replies between a client and an engine.
