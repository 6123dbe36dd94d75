//! All code that talks to the kernel about eBPF.
