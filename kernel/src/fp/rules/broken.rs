//! An image that is told what not to do: with the feature `broken-rules`, and in no other image, the boot arguments
//! switch off one rule or step (`fp-break=NAME`), for tests that want to see guests notice.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicU8, Ordering};

use super::{Rule, Rules, Switch};

/// The number of what is switched off.
static OFF: AtomicU8 = AtomicU8::new(NOTHING);
/// A number that nothing has.
const NOTHING: u8 = u8::MAX;

/// Follows all rules but the one that was chosen.
#[derive(Debug)]
pub struct AllButOne;

impl<T: Switch> Rules<T> for AllButOne {
    #[inline]
    fn keeps(rule: T) -> bool {
        // It is chosen before there is a guest, and nothing is published through it.
        OFF.load(Ordering::Relaxed) != rule.number()
    }
}

/// Switches off what the boot arguments name: a rule, or a `Step` of the architecture.
///
/// # Errors
/// They name something else.
pub fn choose<Step: Switch>(bootargs: &str) -> Result<(), String> {
    let Some(name) = bootargs.split_whitespace().find_map(|word| word.strip_prefix("fp-break=")) else {
        return Ok(());
    };
    let number = find::<Rule>(name).or_else(|| find::<Step>(name));
    let number =
        number.ok_or_else(|| format!("boot arguments: fp-break={name}: there is no such rule or step"))?;
    OFF.store(number, Ordering::Relaxed);
    log::warn!("built to be broken: without {name}");
    Ok(())
}

fn find<T: Switch>(name: &str) -> Option<u8> {
    T::ALL.iter().find(|rule| format!("{rule:?}") == name).map(|rule| rule.number())
}
