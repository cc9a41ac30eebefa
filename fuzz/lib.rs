//! The properties as a library, so that they are compiled only once for all targets.

mod peer;
mod properties;

macro_rules! targets {
    ($($module:ident: $($name:ident)*;)*) => {
        $($(
            /// Checks the property of the target with this name.
            pub fn $name(input: &[u8]) {
                $module::$name(input);
            }
        )*)*
    };
}

targets! {
    properties: chunk header parse prompt request retry_after saved sse stream;
    peer: sse_peer;
}
