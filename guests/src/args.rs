//! Arguments: `key=value` words of `/chosen/bootargs`.

use crate::start::machine;

/// Returns the value of `key`, when given.
pub fn text(key: &str) -> Option<&'static str> {
    machine().args.split_ascii_whitespace().find_map(|word| {
        let (name, value) = word.split_once('=')?;
        (name == key).then_some(value)
    })
}

/// Returns the value of `key` as a number, decimal or `0x...`, or `default`.
pub fn number(key: &str, default: u64) -> u64 {
    text(key)
        .and_then(|value| match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        })
        .unwrap_or(default)
}

/// Tells whether `key` is given and not `0`.
pub fn flag(key: &str) -> bool {
    text(key).is_some_and(|value| value != "0")
}
