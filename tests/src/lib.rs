//! The lab of the end-to-end tests: namespaces, servers, clients, residue checks.
