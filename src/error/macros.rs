//! Macros for the simple parts of types: names of variants, setters of fields.

/// Defines an enum with a name for each variant.
///
/// `as_str` returns the name, and the documentation of the variant contains it. An enum that is
/// marked with `all` also has `by_name` and the list `ALL` of its variants. The variants of such an
/// enum have no values.
macro_rules! names {
    (all $(#[$about:meta])* $vis:vis enum $type:ident {
        $($(#[$meaning:meta])* $variant:ident = $name:literal,)*
    }) => {
        names! { $(#[$about])* $vis enum $type { $($(#[$meaning])* $variant = $name,)* } }

        impl $type {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub(crate) fn by_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == name)
            }
        }
    };
    ($(#[$about:meta])* $vis:vis enum $type:ident {
        $($(#[$meaning:meta])* $variant:ident $(($value:ty))? = $name:literal,)*
    }) => {
        $(#[$about])*
        $vis enum $type {
            $($(#[$meaning])* #[doc = concat!("\n\nName: `", $name, "`.")] $variant $(($value))?,)*
        }

        impl $type {
            /// Returns the stable name, which the command line also prints.
            #[must_use]
            $vis fn as_str(self) -> &'static str {
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
/// A method accepts the type of the field, or a type that converts into it, for example a plain
/// `usize` for an `Option<usize>`. Mark the type of the builder with `#[must_use]`.
macro_rules! setters {
    ($($field:ident: $type:ty,)*) => {
        setters! { $(#[doc = "Sets the field with the same name."] $field: $type,)* }
    };
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

/// Defines builder methods that set the optional field of the same name.
///
/// A method accepts any type that converts into the type in the field, for example a `&str` for an
/// `Option<String>`.
macro_rules! option_setters {
    ($($(#[$meaning:meta])* $field:ident: $type:ty,)*) => {
        $(
            $(#[$meaning])*
            pub fn $field(mut self, $field: impl Into<$type>) -> Self {
                self.$field = Some($field.into());
                self
            }
        )*
    };
}

/// Defines a struct with the default value of each field, as `field: Type = value`.
macro_rules! defaults {
    ($(#[$about:meta])* pub struct $type:ident {
        $($(#[$meaning:meta])* pub $field:ident: $of:ty = $default:expr,)*
    }) => {
        $(#[$about])*
        pub struct $type {
            $($(#[$meaning])* pub $field: $of,)*
        }

        impl Default for $type {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

pub(crate) use debug_fields;
pub(crate) use defaults;
pub(crate) use display_as_str;
pub(crate) use names;
pub(crate) use option_setters;
pub(crate) use setters;
