//! Device trees broken on purpose.

use crate::lab::Spoilt;
use crate::run::tree::{Node, Tree};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// One thing to do to a tree.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Sabotage {
    /// Takes out the node at this path.
    Delete(String),
    /// Adds an empty node at this path.
    Add(String),
    /// Sets a property.
    Set(Edit),
    /// Takes out a property.
    Unset(Edit),
    /// Overwrites bytes of the finished tree.
    Overwrite {
        /// The first of them.
        at: usize,
        /// What they become.
        bytes: Vec<u8>,
    },
    /// Cuts the finished tree off after so many bytes.
    Truncate(usize),
    /// Keeps it from being handed over.
    Withhold,
}

/// A property, and at most one way to write its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit {
    node: String,
    property: String,
    cells: Option<Vec<u32>>,
    text: Option<String>,
    bytes: Option<Vec<u8>>,
}

/// Does everything in order.
///
/// # Errors
/// Names what is not there to be broken.
pub(crate) fn apply(sabotage: &[Sabotage], tree: &mut Tree) -> Result<Spoilt> {
    let mut raw: Option<Vec<u8>> = None;
    for act in sabotage {
        match act {
            Sabotage::Overwrite { at, bytes } => {
                let blob = folded(&mut raw, tree)?;
                let hit = blob.get_mut(*at..at + bytes.len());
                hit.with_context(|| format!("the tree has no bytes {at} to {}", at + bytes.len()))?
                    .copy_from_slice(bytes);
            }
            Sabotage::Truncate(length) => {
                let blob = folded(&mut raw, tree)?;
                ensure!(*length < blob.len(), "the tree has only {} bytes", blob.len());
                blob.truncate(*length);
            }
            Sabotage::Withhold => {
                ensure!(sabotage.len() == 1, "what is withheld is not seen, so nothing else can be broken");
                return Ok(Spoilt::Withheld);
            }
            _ if raw.is_some() => anyhow::bail!("nodes cannot change once bytes did; put {act:?} first"),
            Sabotage::Delete(path) => tree.remove(path)?,
            Sabotage::Add(path) => {
                let (parent, name) = path.rsplit_once('/').with_context(|| format!("`{path}` is no path"))?;
                tree.node(if parent.is_empty() { "/" } else { parent })?.children.push(Node::new(name));
            }
            Sabotage::Set(edit) => {
                let value = edit.value()?;
                tree.node(&edit.node)?.set(&edit.property, value);
            }
            Sabotage::Unset(edit) => {
                let node = tree.node(&edit.node)?;
                let before = node.properties.len();
                node.properties.retain(|(name, _)| *name != edit.property);
                ensure!(node.properties.len() < before, "{} has no property `{}`", edit.node, edit.property);
            }
        }
    }
    Ok(raw.map_or(Spoilt::Sound, Spoilt::Raw))
}

/// Returns the bytes of the tree, folding it the first time.
fn folded<'a>(raw: &'a mut Option<Vec<u8>>, tree: &Tree) -> Result<&'a mut Vec<u8>> {
    if raw.is_none() {
        *raw = Some(tree.to_bytes()?);
    }
    raw.as_mut().context("a folded tree has bytes")
}

impl Edit {
    fn value(&self) -> Result<Vec<u8>> {
        let cells = self.cells.iter().flatten().flat_map(|cell| cell.to_be_bytes());
        match (&self.cells, &self.text, &self.bytes) {
            (Some(_), None, None) => Ok(cells.collect()),
            (None, Some(text), None) => Ok([text.as_bytes(), b"\0"].concat()),
            (None, None, Some(bytes)) => Ok(bytes.clone()),
            _ => anyhow::bail!("set {} of {}: give one of cells, text and bytes", self.property, self.node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tree::tests::machine;

    fn broken(toml: &str) -> Result<(Tree, Spoilt)> {
        #[derive(Deserialize)]
        struct File {
            acts: Vec<Sabotage>,
        }
        let mut tree = machine(0..0x1000);
        let raw = apply(&toml::from_str::<File>(&format!("acts = [{toml}]"))?.acts, &mut tree)?;
        Ok((tree, raw))
    }

    #[test]
    fn nodes_and_properties_change() {
        let (mut tree, raw) = broken(
            r#"{ add = "/chosen/a" }, { set = { node = "/chosen/a", property = "cpus", cells = [1, 2] } },
               { set = { node = "/chosen/a", property = "name", text = "x" } }, { delete = "/memory" },
               { unset = { node = "/chosen", property = "stdout-path" } }"#,
        )
        .unwrap();
        assert_eq!(raw, Spoilt::Sound);
        assert_eq!(tree.node("/chosen/a").unwrap().property("cpus").unwrap(), [0, 0, 0, 1, 0, 0, 0, 2]);
        assert_eq!(tree.node("/chosen/a").unwrap().property("name").unwrap(), b"x\0");
        assert!(tree.node("/memory").is_err());
        assert_eq!(tree.node("/chosen").unwrap().property("stdout-path"), None);
    }

    #[test]
    fn bytes_change_last() {
        let (tree, raw) =
            broken("{ overwrite = { at = 4, bytes = [1, 2, 3, 4] } }, { truncate = 60 }").unwrap();
        let mut expected = tree.to_bytes().unwrap();
        expected[4..8].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(raw, Spoilt::Raw(expected[..60].to_vec()));
        assert_eq!(broken(r#""withhold""#).unwrap().1, Spoilt::Withheld);
    }

    #[test]
    fn what_is_not_there_cannot_be_broken() {
        let why = |toml| broken(toml).unwrap_err().to_string();
        assert!(why(r#"{ delete = "/nowhere" }"#).contains("no `nowhere`"));
        assert!(why(r#"{ unset = { node = "/chosen", property = "x" } }"#).contains("no property `x`"));
        assert!(why(r#"{ set = { node = "/chosen", property = "x" } }"#).contains("one of cells"));
        assert!(why("{ truncate = 99999 }").contains("only"));
        assert!(why("{ overwrite = { at = 99999, bytes = [1] } }").contains("no bytes 99999"));
        assert!(why(r#"{ truncate = 60 }, { delete = "/chosen" }"#).contains("first"));
        assert!(why(r#"{ truncate = 60 }, "withhold""#).contains("nothing else"));
    }
}
