//! Requests and replies between a client and an engine, over Unix sockets.
//!
//! [`protocol`] says what, [`frame`] how it is written, [`peer`] and [`caller`] with whom one talks and what that
//! one may ask. [`rendezvous`] brings a client that is not root and an engine that is together; [`server`]
//! answers on an engine's own socket, [`client`] asks there, [`outbox`] lets no slow client delay anybody.

pub mod caller;
pub mod client;
pub mod frame;
pub mod outbox;
pub mod peer;
pub mod protocol;
pub mod rendezvous;
pub mod server;
