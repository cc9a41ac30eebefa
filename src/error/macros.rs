//! Macros for the simple parts of types: names of variants, setters of fields.

/// Defines an enum with a name for each variant.
///
/// `as_str` returns the name, and the documentation of the variant contains it.
macro_rules! names {
    ($(#[$about:meta])* pub enum $type:ident {
        $($(#[$meaning:meta])* $variant:ident $(($value:ty))? = $name:literal,)*
    }) => {
        $(#[$about])*
        pub enum $type {
            $($(#[$meaning])* #[doc = concat!("\n\nName: `", $name, "`.")] $variant $(($value))?,)*
        }

        impl $type {
            /// Returns the stable name, as the command line prints it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                }
            }
        }
    };
}

/// Implements `Display` with `as_str`.
macro_rules! display_as_str {
    ($($type:ty),*) => {
        $(
            impl std::fmt::Display for $type {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(self.as_str())
                }
            }
        )*
    };
}

/// Defines builder methods that set the field of the same name.
///
/// A method accepts the type of the field, or a type that converts into it: a plain `usize` for an
/// `Option<usize>`. Mark the type of the builder with `#[must_use]`.
macro_rules! setters {
    ($($(#[$meaning:meta])* $field:ident: $type:ty,)*) => {
        $(
            $(#[$meaning])*
            pub fn $field(mut self, $field: $type) -> Self {
                self.$field = $field.into();
                self
            }
        )*
    };
}

/// Implements `Debug` for structs, with some of their fields.
///
/// The other fields are too large, cannot be printed, or must not be printed.
macro_rules! debug_fields {
    ($($type:ident { $($field:ident),* })*) => {
        $(
            impl std::fmt::Debug for $type {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    let mut shown = f.debug_struct(stringify!($type));
                    $(shown.field(stringify!($field), &self.$field);)*
                    shown.finish_non_exhaustive()
                }
            }
        )*
    };
}

pub(crate) use debug_fields;
pub(crate) use display_as_str;
pub(crate) use names;
pub(crate) use setters;
