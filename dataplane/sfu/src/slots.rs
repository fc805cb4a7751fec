//! A table whose rows are named by small numbers that are reused. Bounded; looking up costs one index.

#[derive(Debug)]
pub struct Slots<T> {
    rows: Vec<Option<T>>,
    free: Vec<u32>,
    rows_max: usize,
}

impl<T> Slots<T> {
    pub fn new(rows_max: usize) -> Self {
        Self { rows: Vec::new(), free: Vec::new(), rows_max }
    }

    /// The row's number; `None` when the table is full.
    pub fn insert(&mut self, value: T) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            self.rows[index as usize] = Some(value);
            return Some(index);
        }
        if self.rows.len() >= self.rows_max {
            return None;
        }
        self.rows.push(Some(value));
        Some((self.rows.len() - 1) as u32)
    }

    pub fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.rows.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(value)
    }

    pub fn get(&self, index: u32) -> Option<&T> {
        self.rows.get(index as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.rows.get_mut(index as usize)?.as_mut()
    }

    /// One more than the highest number ever given.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_reused_and_bounded() {
        let mut slots = Slots::new(2);
        let first = slots.insert('a').unwrap();
        let second = slots.insert('b').unwrap();
        assert_eq!(slots.insert('c'), None);
        assert_eq!((slots.remove(first), slots.remove(first), slots.get(first)), (Some('a'), None, None));
        assert_eq!((slots.insert('d'), slots.get(second)), (Some(first), Some(&'b')));
        assert_eq!(slots.len(), 2);
    }
}
