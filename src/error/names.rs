//! Enums whose variants have names.

/// Defines an enum with a name for each variant: `as_str` and `Display` give the name, and the variant's documentation
/// shows it.
macro_rules! names {
    ($(#[$about:meta])* pub enum $type:ident { $($(#[$meaning:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        pub enum $type {
            $($(#[$meaning])* #[doc = concat!("\n\nName: `", $name, "`.")] $variant,)*
        }

        impl $type {
            /// Returns the stable name, as the command line prints it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use names;
