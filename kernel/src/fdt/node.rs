//! Nodes, and what their properties mean.

use core::fmt;

use super::scan::{Blocks, Token};
use super::{Complaint, Found, MAX_DEPTH, Wanted, word};
use crate::addr::Hpa;
use crate::mem::Region;

/// A node of a tree that has been checked.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    blocks: Blocks<'a>,
    /// Where its token is in the structure block.
    at: u32,
    /// Where its first property is.
    body: u32,
}

impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Node<'_> {}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path())
    }
}

/// How many cells the addresses and sizes of a node's children take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cells {
    /// Cells of an address.
    pub address: usize,
    /// Cells of a size.
    pub size: usize,
}

impl<'a> Node<'a> {
    /// The root of a checked tree.
    pub(super) fn root(blocks: Blocks<'a>) -> Self {
        // A checked tree has a root; an empty node stands in for what cannot be missing.
        Nodes::new(blocks).next().unwrap_or(Self { blocks, at: u32::MAX, body: u32::MAX })
    }

    /// The node whose token is at `at`, and the next token at `body`. A tree has at most [`super::MAX_SIZE`] bytes, so
    /// offsets fit.
    fn new(blocks: Blocks<'a>, at: usize, body: usize) -> Self {
        Self { blocks, at: at as u32, body: body as u32 }
    }

    /// Its name with the unit address; the root's is empty.
    pub fn name(&self) -> &'a str {
        match self.blocks.token(self.at as usize) {
            Ok((Token::Begin(name), _)) => name,
            _ => "",
        }
    }

    /// Its name without the unit address.
    pub fn base_name(&self) -> &'a str {
        let name = self.name();
        name.split_once('@').map_or(name, |(base, _)| base)
    }

    /// Where it is in the tree, for messages.
    pub fn path(&self) -> Path<'a> {
        Path(*self)
    }

    /// The node it is a child of; the root has none.
    pub fn parent(&self) -> Option<Node<'a>> {
        let (line, depth) = self.line();
        line[..depth].last().copied().flatten()
    }

    /// Its ancestors from the root on, and how many they are.
    fn line(&self) -> ([Option<Node<'a>>; MAX_DEPTH], usize) {
        let mut line = [None; MAX_DEPTH];
        let (mut at, mut depth) = (0, 0);
        while at < self.at as usize
            && let Ok((token, next)) = self.blocks.token(at)
        {
            match token {
                Token::Begin(_) if depth < MAX_DEPTH => {
                    line[depth] = Some(Node::new(self.blocks, at, next));
                    depth += 1;
                }
                Token::End => depth = depth.saturating_sub(1),
                Token::Finish => break,
                Token::Begin(_) | Token::Property(..) | Token::Nop => {}
            }
            at = next;
        }
        (line, depth)
    }

    /// Its children.
    pub fn children(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        Children { blocks: self.blocks, at: self.body as usize }
    }

    /// Its child of that name; without a unit address, the first that has it with any.
    pub fn child(&self, name: &str) -> Option<Node<'a>> {
        let exact = self.children().find(|child| child.name() == name);
        exact.or_else(|| self.children().find(|child| child.base_name() == name))
    }

    /// The node at a path that starts here.
    pub(super) fn descend(self, path: &str) -> Option<Node<'a>> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(self, |node, part| node.child(part))
    }

    /// Its properties.
    pub fn properties(&self) -> Properties<'a> {
        Properties { blocks: self.blocks, at: self.body as usize }
    }

    /// A property's value.
    pub fn property(&self, name: &str) -> Option<Value<'a>> {
        self.properties().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// What is wrong with a property of this node.
    pub fn complain(&self, property: &'a str, found: Found<'a>, wanted: Wanted<'a>) -> Complaint<'a> {
        Complaint { node: *self, property, found, wanted }
    }

    /// Complains about a property's value, or that it is missing.
    fn odd(&self, property: &'static str, wanted: &'static str) -> Complaint<'a> {
        let found = self.property(property).map_or(Found::Nothing, Found::Value);
        self.complain(property, found, Wanted::Text(wanted))
    }

    /// A property that is a string, if it is there.
    pub fn text(&self, property: &'static str) -> Result<Option<&'a str>, Complaint<'a>> {
        match self.property(property) {
            None => Ok(None),
            Some(value) => value.text().map(Some).ok_or_else(|| self.odd(property, "a string")),
        }
    }

    /// A property that is one cell, if it is there.
    pub fn cell(&self, property: &'static str) -> Result<Option<u32>, Complaint<'a>> {
        match self.property(property) {
            None => Ok(None),
            Some(value) if value.bytes().len() == 4 => Ok(value.cell(0)),
            Some(_) => Err(self.odd(property, "one cell")),
        }
    }

    /// A property that is a number of one or two cells, if it is there.
    pub fn number(&self, property: &'static str) -> Result<Option<u64>, Complaint<'a>> {
        match self.property(property) {
            None => Ok(None),
            Some(value) => value.number().map(Some).ok_or_else(|| self.odd(property, "one or two cells")),
        }
    }

    /// What it is compatible with, most specific first.
    pub fn compatible(&self) -> Strings<'a> {
        Strings(self.property("compatible").map_or(&[], |value| value.0))
    }

    /// Whether `compatible` lists `what`.
    pub fn is_compatible(&self, what: &str) -> bool {
        self.compatible().any(|entry| entry == what)
    }

    /// Whether `status` lets it be used: absent, "okay" or "ok".
    pub fn is_usable(&self) -> bool {
        self.property("status").is_none_or(|value| matches!(value.text(), Some("okay" | "ok")))
    }

    /// How the addresses of its children are written.
    pub fn cells(&self) -> Result<Cells, Complaint<'a>> {
        let count = |property, default| {
            let cells = self.cell(property)?.unwrap_or(default);
            let odd = self.complain(property, Found::Number(cells.into()), Wanted::Between(0, 4));
            if cells <= 4 { Ok(cells as usize) } else { Err(odd) }
        };
        // The defaults are those of the Devicetree Specification 0.4, 2.3.5.
        Ok(Cells { address: count("#address-cells", 2)?, size: count("#size-cells", 1)? })
    }

    /// The address and size pairs of `reg` as they are written, in the terms of the parent's bus. A size is zero where
    /// the parent gives sizes no cells.
    pub fn reg(&self) -> Result<Regions<'a>, Complaint<'a>> {
        let cells = match self.parent() {
            Some(parent) => parent.cells()?,
            None => return Err(self.odd("reg", "none in the root")),
        };
        let value = self.property("reg").ok_or_else(|| self.odd("reg", "an address"))?;
        if !(1..=2).contains(&cells.address) || cells.size > 2 {
            return Err(self.odd("reg", "addresses and sizes of one or two cells"));
        }
        if value.0.is_empty() || !value.0.len().is_multiple_of((cells.address + cells.size) * 4) {
            return Err(self.odd("reg", "whole pairs of address and size"));
        }
        Ok(Regions { value, cells, next: 0 })
    }

    /// The `index`th entry of `reg` as the CPU sees it.
    pub fn region(&self, index: usize) -> Result<Region, Complaint<'a>> {
        let few = self.odd("reg", "more entries");
        let (address, size) = self.reg()?.nth(index).ok_or(few)?;
        self.seen_by_cpu(address, size)
    }

    /// All entries of `reg` as the CPU sees them, without those that have no size.
    pub fn regions(
        &self,
    ) -> Result<impl Iterator<Item = Result<Region, Complaint<'a>>> + use<'a>, Complaint<'a>> {
        let node = *self;
        let entries = self.reg()?.filter(|(_, size)| *size > 0);
        Ok(entries.map(move |(address, size)| node.seen_by_cpu(address, size)))
    }

    /// Translates an address of the parent's bus through the `ranges` of every bus above it.
    fn seen_by_cpu(&self, mut address: u64, size: u64) -> Result<Region, Complaint<'a>> {
        let (line, depth) = self.line();
        let mut ancestors = line[..depth].iter().rev().flatten().copied().peekable();
        while let Some(bus) = ancestors.next() {
            if let Some(above) = ancestors.peek() {
                address = bus.translate(above.cells()?.address, address, size)?;
            }
        }
        let whole = "a size above zero, and an end below 2^64";
        Region::new(Hpa(address), size).ok_or_else(|| self.odd("reg", whole))
    }

    /// Translates an address of this bus to one of the bus above it.
    fn translate(&self, above: usize, address: u64, size: u64) -> Result<u64, Complaint<'a>> {
        let ranges =
            self.property("ranges").ok_or_else(|| self.odd("ranges", "a translation to the parent bus"))?;
        if ranges.0.is_empty() {
            return Ok(address);
        }
        let own = self.cells()?;
        let entry = own.address + above + own.size;
        if !(1..=2).contains(&own.address) || !(1..=2).contains(&above) || !(1..=2).contains(&own.size) {
            return Err(self.odd("ranges", "addresses and sizes of one or two cells"));
        }
        if !ranges.0.len().is_multiple_of(entry * 4) {
            return Err(self.odd("ranges", "whole entries"));
        }
        let starts = (0..ranges.0.len() / 4).step_by(entry);
        let mapped = starts.into_iter().find_map(|at| {
            let from = ranges.number_at(at, own.address)?;
            let to = ranges.number_at(at + own.address, above)?;
            let length = ranges.number_at(at + own.address + above, own.size)?;
            let offset = address.checked_sub(from)?;
            let room = length.checked_sub(offset)?;
            if size <= room { to.checked_add(offset) } else { None }
        });
        mapped.ok_or_else(|| {
            self.complain("ranges", Found::Number(address), Wanted::Text("an address it translates"))
        })
    }

    /// The interrupts it raises. None if it has neither `interrupts` nor `interrupts-extended`.
    pub fn interrupts(&self) -> Result<Interrupts<'a>, Complaint<'a>> {
        if let Some(value) = self.property("interrupts-extended") {
            return Ok(Interrupts { node: *self, controller: None, value, next: 0 });
        }
        let Some(value) = self.property("interrupts") else {
            return Ok(Interrupts { node: *self, controller: None, value: Value(&[]), next: 0 });
        };
        let (line, depth) = self.line();
        let mut holders = core::iter::once(*self).chain(line[..depth].iter().rev().flatten().copied());
        let missing = self.odd("interrupt-parent", "a phandle here or in a node above");
        let parent = holders.find_map(|node| node.property("interrupt-parent")).ok_or(missing)?;
        let controller = self.controller("interrupt-parent", parent.cell(0))?;
        Ok(Interrupts { node: *self, controller: Some(controller), value, next: 0 })
    }

    /// The interrupt controller with that phandle, and how many cells it takes to name an interrupt of it.
    fn controller(
        &self,
        property: &'static str,
        phandle: Option<u32>,
    ) -> Result<(Node<'a>, usize), Complaint<'a>> {
        let found = phandle.map_or(Found::Nothing, |phandle| Found::Number(phandle.into()));
        let unknown = self.complain(property, found, Wanted::Text("the phandle of an interrupt controller"));
        let node = phandle.and_then(|phandle| by_phandle(self.blocks, phandle)).ok_or(unknown)?;
        let cells = node.cell("#interrupt-cells")?.ok_or_else(|| node.odd("#interrupt-cells", "one cell"))?;
        let odd = node.complain("#interrupt-cells", Found::Number(cells.into()), Wanted::Between(1, 4));
        if (1..=4).contains(&cells) { Ok((node, cells as usize)) } else { Err(odd) }
    }
}

/// The node with that phandle.
pub(super) fn by_phandle(blocks: Blocks<'_>, phandle: u32) -> Option<Node<'_>> {
    let has = |node: &Node<'_>| node.property("phandle").and_then(|value| value.cell(0)) == Some(phandle);
    Nodes::new(blocks).find(has)
}

/// A property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// As it is in the tree.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// As one string.
    pub fn text(&self) -> Option<&'a str> {
        let (last, text) = self.0.split_last()?;
        let whole = *last == 0 && !text.contains(&0);
        core::str::from_utf8(text).ok().filter(|_| whole)
    }

    /// As a list of strings.
    pub fn strings(&self) -> Strings<'a> {
        Strings(self.0)
    }

    /// Its `index`th cell.
    pub fn cell(&self, index: usize) -> Option<u32> {
        word(self.0, index.checked_mul(4)?)
    }

    /// As a list of cells; a rest that is no whole cell is left out.
    pub fn cells(&self) -> impl Iterator<Item = u32> + use<'a> {
        let value = *self;
        (0..self.0.len() / 4).map_while(move |index| value.cell(index))
    }

    /// As one number of one or two cells.
    pub fn number(&self) -> Option<u64> {
        match self.0.len() {
            4 | 8 => self.number_at(0, self.0.len() / 4),
            _ => None,
        }
    }

    /// The number of `cells` cells (none are zero) that starts with the `index`th cell.
    fn number_at(&self, index: usize, cells: usize) -> Option<u64> {
        (0..cells).try_fold(0, |number, cell| Some(number << 32 | u64::from(self.cell(index + cell)?)))
    }
}

/// The properties of a node, by name.
#[derive(Clone)]
pub struct Properties<'a> {
    blocks: Blocks<'a>,
    at: usize,
}

impl<'a> Iterator for Properties<'a> {
    type Item = (&'a str, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (token, next) = self.blocks.token(self.at).ok()?;
            match token {
                Token::Property(name, value) => {
                    self.at = next;
                    return Some((name, Value(value)));
                }
                Token::Nop => self.at = next,
                Token::Begin(_) | Token::End | Token::Finish => return None,
            }
        }
    }
}

/// The children of a node.
struct Children<'a> {
    blocks: Blocks<'a>,
    at: usize,
}

impl<'a> Iterator for Children<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        let mut child = None;
        let mut depth = 0;
        loop {
            let (token, next) = self.blocks.token(self.at).ok()?;
            match token {
                Token::Begin(_) => {
                    child = child.or(Some(Node::new(self.blocks, self.at, next)));
                    depth += 1;
                }
                Token::End if depth == 0 => return None,
                Token::End => depth -= 1,
                Token::Finish => return None,
                Token::Property(..) | Token::Nop => {}
            }
            self.at = next;
            if child.is_some() && depth == 0 {
                return child;
            }
        }
    }
}

/// All nodes of a tree.
pub(super) struct Nodes<'a> {
    blocks: Blocks<'a>,
    at: usize,
}

impl<'a> Nodes<'a> {
    pub(super) fn new(blocks: Blocks<'a>) -> Self {
        Self { blocks, at: 0 }
    }
}

impl<'a> Iterator for Nodes<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        loop {
            let at = self.at;
            let (token, next) = self.blocks.token(at).ok()?;
            match token {
                Token::Finish => return None,
                Token::Begin(_) => {
                    self.at = next;
                    return Some(Node::new(self.blocks, at, next));
                }
                Token::End | Token::Property(..) | Token::Nop => self.at = next,
            }
        }
    }
}

/// A list of strings; what is not UTF-8 in it is left out.
#[derive(Clone, Debug)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        while !self.0.is_empty() {
            let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
            let entry = core::str::from_utf8(&self.0[..end]);
            self.0 = self.0.get(end + 1..).unwrap_or_default();
            if let Ok(entry) = entry {
                return Some(entry);
            }
        }
        None
    }
}

/// The addresses and sizes in a `reg`, in the terms of the parent's bus.
#[derive(Clone, Debug)]
pub struct Regions<'a> {
    value: Value<'a>,
    cells: Cells,
    next: usize,
}

impl Iterator for Regions<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let address = self.value.number_at(self.next, self.cells.address)?;
        let size = self.value.number_at(self.next + self.cells.address, self.cells.size)?;
        self.next += self.cells.address + self.cells.size;
        Some((address, size))
    }
}

/// One interrupt as its controller names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specifier<'a> {
    /// The controller.
    pub controller: Node<'a>,
    /// As many cells as the controller's `#interrupt-cells` says.
    pub cells: Value<'a>,
}

/// The interrupts of a node.
#[derive(Clone, Debug)]
pub struct Interrupts<'a> {
    node: Node<'a>,
    /// The controller of all of them and its cells, unless each is preceded by its own.
    controller: Option<(Node<'a>, usize)>,
    value: Value<'a>,
    /// The next cell.
    next: usize,
}

impl<'a> Interrupts<'a> {
    fn step(&mut self) -> Result<Specifier<'a>, Complaint<'a>> {
        let (controller, cells) = match self.controller {
            Some(shared) => shared,
            None => {
                let phandle = self.value.cell(self.next);
                self.next += 1;
                self.node.controller("interrupts-extended", phandle)?
            }
        };
        let (from, to) = (self.next * 4, (self.next + cells) * 4);
        self.next += cells;
        let cut = self.node.complain("interrupts", Found::Value(self.value), Wanted::Text("whole entries"));
        let cells = Value(self.value.0.get(from..to).ok_or(cut)?);
        Ok(Specifier { controller, cells })
    }
}

impl<'a> Iterator for Interrupts<'a> {
    type Item = Result<Specifier<'a>, Complaint<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next * 4 >= self.value.0.len() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.next = self.value.0.len();
        }
        Some(step)
    }
}

/// A node's place in the tree, written with slashes.
#[derive(Clone, Copy)]
pub struct Path<'a>(Node<'a>);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, depth) = self.0.line();
        for ancestor in line[..depth].iter().flatten().skip(1) {
            write!(f, "/{}", ancestor.name())?;
        }
        write!(f, "/{}", self.0.name())
    }
}
