//! Columns that line up.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// Where a cell stands in its column.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// Rows of cells under a header; a column whose cells are all numbers is set to the right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self { rows: Vec::from([header.iter().map(|&cell| cell.into()).collect()]) }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> fmt::Result {
        let columns: Vec<(usize, Side)> = (0..self.rows[0].len()).map(|n| self.column(n)).collect();
        let mut line = String::new();
        for row in &self.rows {
            line.clear();
            for (cell, &(width, side)) in row.iter().zip(&columns) {
                match side {
                    Side::Right => write!(line, "{cell:>width$}  ")?,
                    Side::Left => write!(line, "{cell:<width$}  ")?,
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// A column's width and side.
    fn column(&self, n: usize) -> (usize, Side) {
        let cells = || self.rows.iter().filter_map(|row| row.get(n));
        let width = cells().map(|cell| cell.chars().count()).max().unwrap_or(0);
        let number = |cell: &String| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit());
        let numbers = cells().skip(1).all(number) && cells().skip(1).any(|cell| cell != "-");
        (width, if numbers { Side::Right } else { Side::Left })
    }
}
