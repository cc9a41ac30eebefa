//! Encodes and decodes Base64 (RFC 4648 section 4, with padding) for pieces that are not UTF-8.
//!
//! The crate `base64` is in the dependency tree only because of ureq. A direct dependency costs
//! more than this short code.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for i in 0..4 {
            // Six bits are less than 64, the length of the alphabet.
            let digit = ALPHABET[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i > group.len() { '=' } else { char::from(digit) });
        }
    }
    out
}

/// Decodes text that [`encode`] wrote. Returns `None` for any other text.
///
/// Examples are foreign characters, missing padding and stray bits.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_bytes().split_at(text.len() / 4 * 4);
    let mut out = Vec::with_capacity(groups.len() / 4 * 3);
    for group in groups.chunks(4) {
        let digits = group.iter().rposition(|byte| *byte != b'=')? + 1;
        let mut bits = 0u32;
        for byte in &group[..digits] {
            bits = bits << 6 | u32::try_from(ALPHABET.iter().position(|digit| digit == byte)?).ok()?;
        }
        bits <<= 6 * (4 - digits);
        // A group of `digits` characters contains `digits - 1` bytes. The first of the four bytes
        // is zero because of the shift.
        out.extend_from_slice(&bits.to_be_bytes()[1..digits]);
    }
    (rest.is_empty() && encode(&out) == text).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_match_the_vectors_of_the_standard() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (plain, coded) in vectors {
            assert_eq!(encode(plain.as_bytes()), coded);
            assert_eq!(decode(coded).as_deref(), Some(plain.as_bytes()));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
    }

    #[test]
    fn decode_refuses_text_that_encode_does_not_write() {
        for bad in
            ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "====", "Z===", "Zm=v", "Zg==Zg==", "Zm9v\n", "Zm9*", "Zmöv"]
        {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
