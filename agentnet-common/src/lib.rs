//! What the kernel programs and the user side of agentnet share: addresses, names, map layouts, events and
//! above all the verdict, so that a hook, `policy explain`, `replay` and the tests cannot disagree.
//!
//! `no_std` and free of dependencies unless the feature `user` is on. Everything that crosses the kernel
//! boundary is `repr(C)`, made of integers and byte arrays, without padding.
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod abi;
pub mod addr;
pub mod door;
pub mod event;
pub mod name;
pub mod neighbour;
pub mod verdict;

#[cfg(feature = "user")]
pub mod user;

/// Derives what a type needs to cross the kernel boundary: a fixed layout on both sides and, on the user
/// side, checked reading of its bytes. Deriving `IntoBytes` refuses to compile where there is padding.
macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(
            feature = "user",
            derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
        )]
        pub struct $name { $($body)* }

        // SAFETY: `repr(C)`, integers and arrays of them only; `IntoBytes` above proves there is no padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}
pub(crate) use wire;

/// A closed set of byte codes that crosses the kernel boundary as a plain `u8`: an unknown code is an error
/// when decoded, never undefined behaviour.
macro_rules! codes {
    ($(#[$meta:meta])* pub enum $name:ident: $repr:ident { $($(#[$vmeta:meta])* $variant:ident = $code:literal => $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name { $($(#[$vmeta])* $variant = $code),+ }

        impl $name {
            /// Every value, in the order of its code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable lower-case label used in JSON, in counters and in the documentation.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// The value of a code read from the kernel, or `None` if this build does not know it.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
pub(crate) use codes;
