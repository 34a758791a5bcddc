//! A ring of bytes that either refuses or forgets when it is full.

/// A queue is full; the byte was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A byte queue in `S`, which is an array where it must be constant and a box where it need not.
///
/// Positions count bytes since the beginning and are never reduced, so that a length is a difference.
pub struct Ring<S> {
    bytes: S,
    head: u64,
    tail: u64,
    lost: u64,
}

impl<S> Ring<S> {
    /// Makes an empty ring of `bytes`, all of which can be in use at once.
    pub const fn new(bytes: S) -> Self {
        Self { bytes, head: 0, tail: 0, lost: 0 }
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        (self.tail - self.head) as usize
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Forgets everything that waits, and that anything was lost.
    pub fn clear(&mut self) {
        self.head = self.tail;
        self.lost = 0;
    }

    /// Forgets the oldest bytes until at most `keep` are left; they count as lost.
    pub fn keep_newest(&mut self, keep: usize) {
        let from = self.tail.saturating_sub(keep as u64).max(self.head);
        self.lost += from - self.head;
        self.head = from;
    }

    /// How many bytes were lost since this was last asked.
    pub fn take_lost(&mut self) -> u64 {
        core::mem::take(&mut self.lost)
    }
}

impl<S: AsRef<[u8]> + AsMut<[u8]>> Ring<S> {
    /// How many bytes fit in all.
    pub fn capacity(&self) -> usize {
        self.bytes.as_ref().len()
    }

    /// Appends a byte, or refuses it.
    pub fn push(&mut self, byte: u8) -> Result<(), Full> {
        if self.len() >= self.capacity() {
            return Err(Full);
        }
        let at = self.index(self.tail);
        self.bytes.as_mut()[at] = byte;
        self.tail += 1;
        Ok(())
    }

    /// Appends a byte and forgets the oldest one if there is no room.
    pub fn push_over(&mut self, byte: u8) {
        if self.push(byte).is_err() {
            self.keep_newest(self.capacity().saturating_sub(1));
            // Only a ring of no size refuses now, and it has nothing to keep.
            let _ = self.push(byte);
        }
    }

    /// Takes the oldest byte.
    pub fn pop(&mut self) -> Option<u8> {
        if self.is_empty() {
            return None;
        }
        let byte = self.bytes.as_ref()[self.index(self.head)];
        self.head += 1;
        Some(byte)
    }

    /// Takes up to `into.len()` of the oldest bytes and says how many.
    pub fn pop_into(&mut self, into: &mut [u8]) -> usize {
        let mut n = 0;
        while n < into.len()
            && let Some(byte) = self.pop()
        {
            into[n] = byte;
            n += 1;
        }
        n
    }

    fn index(&self, position: u64) -> usize {
        (position % self.capacity() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_when_full_and_keeps_order_across_the_wrap() {
        let mut ring = Ring::new([0; 4]);
        for byte in 0..4 {
            ring.push(byte).unwrap();
        }
        assert_eq!(ring.push(9), Err(Full));
        assert_eq!((ring.pop(), ring.pop()), (Some(0), Some(1)));
        ring.push(4).unwrap();
        let mut out = [0; 8];
        assert_eq!(ring.pop_into(&mut out), 3);
        assert_eq!(out[..3], [2, 3, 4]);
        assert_eq!(ring.take_lost(), 0);
    }

    #[test]
    fn forgets_the_oldest_and_counts_them() {
        let mut ring = Ring::new([0; 4]);
        for byte in 0..7 {
            ring.push_over(byte);
        }
        assert_eq!((ring.len(), ring.take_lost(), ring.take_lost()), (4, 3, 0));
        ring.keep_newest(1);
        assert_eq!((ring.pop(), ring.pop(), ring.take_lost()), (Some(6), None, 3));
    }

    #[test]
    fn a_ring_of_no_size_takes_nothing() {
        let mut ring = Ring::new([0; 0]);
        ring.push_over(1);
        assert_eq!((ring.push(1), ring.pop()), (Err(Full), None));
    }
}
