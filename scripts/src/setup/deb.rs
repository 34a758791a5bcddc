//! Debian's formats: versions and their order, and the stanzas of a package index.

use std::cmp::Ordering;
use std::fmt;

/// A package as an index describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: Version,
    /// The size of its file in bytes.
    pub(crate) size: u64,
    /// The SHA-256 of its file, in hexadecimal.
    pub(crate) sha256: String,
}

impl Package {
    /// Reads the stanzas of an index; one that lacks a field we need is no package we can fetch, and is left out.
    pub(crate) fn parse_all(index: &str) -> Vec<Self> {
        index.split("\n\n").filter_map(Self::parse).collect()
    }

    fn parse(stanza: &str) -> Option<Self> {
        // Continuation lines begin with a blank, so they never look like a field.
        let field = |name: &str| {
            let line = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        Some(Self {
            name: field("Package")?,
            version: Version::new(&field("Version")?),
            size: field("Size")?.parse().ok()?,
            sha256: field("SHA256").filter(|sum| sum.len() == 64)?,
        })
    }

    /// The name of a cache entry for it: as Debian names files, without the epoch.
    pub(crate) fn entry_name(&self) -> String {
        format!("{}_{}", self.name, self.version.without_epoch())
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// A source package as an index describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: Version,
    /// Its files: name, and SHA-256 in hexadecimal.
    pub(crate) files: Vec<(String, String)>,
}

impl Source {
    /// Reads the stanzas of an index of sources; one that lacks a field we need is left out.
    pub(crate) fn parse_all(index: &str) -> Vec<Self> {
        index.split("\n\n").filter_map(Self::parse).collect()
    }

    fn parse(stanza: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        // The list is on the lines after its name, each with a blank before it: hash, size, name.
        let list = stanza.lines().skip_while(|line| !line.starts_with("Checksums-Sha256:")).skip(1);
        let list = list.take_while(|line| line.starts_with(' '));
        let files: Vec<_> = list
            .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
                [sum, _, name] if sum.len() == 64 => Some((name.to_owned(), sum.to_owned())),
                _ => None,
            })
            .collect();
        // What is unpacked is the file that describes the others.
        files.iter().any(|(name, _)| name.ends_with(".dsc")).then_some(())?;
        Some(Self { name: field("Package")?, version: Version::new(&field("Version")?), files })
    }

    /// The name of the file that describes the others.
    pub(crate) fn description(&self) -> &str {
        self.files
            .iter()
            .map(|(name, _)| name.as_str())
            .find(|name| name.ends_with(".dsc"))
            .unwrap_or_default()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// A package version: `[epoch:]upstream[-revision]`, ordered as Debian Policy 5.6.12 says.
#[derive(Clone, Debug)]
pub(crate) struct Version(String);

impl Version {
    /// Takes any text: the order is defined for all.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text without the epoch.
    pub(crate) fn without_epoch(&self) -> &str {
        self.0.split_once(':').map_or(self.0.as_str(), |(_, rest)| rest)
    }

    /// The version of the software itself: no epoch, no revision, nothing that Debian added (`+dfsg`, `+ds`).
    pub(crate) fn upstream(&self) -> &str {
        let upstream = self.without_epoch();
        let upstream = upstream.rsplit_once('-').map_or(upstream, |(upstream, _)| upstream);
        upstream.split(['+', '~']).next().unwrap_or_default()
    }

    /// Whether it was made for an older release than the one it was written for.
    pub(crate) fn is_backport(&self) -> bool {
        self.0.contains("~bpo")
    }

    /// Whether its software is of the series `major.minor`.
    pub(crate) fn is_of_series(&self, series: &str) -> bool {
        self.upstream().strip_prefix(series).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Epoch, upstream version and revision.
    fn parts(&self) -> (u64, &str, &str) {
        let rest = self.without_epoch();
        let epoch = self.0[..self.0.len() - rest.len()].trim_end_matches(':').parse().unwrap_or(0);
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream, revision)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((epoch, upstream, revision), (other_epoch, other_upstream, other_revision)) =
            (self.parts(), other.parts());
        epoch
            .cmp(&other_epoch)
            .then_with(|| compare(upstream, other_upstream))
            .then_with(|| compare(revision, other_revision))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

/// Compares by turns a part without digits and a number, as Policy 5.6.12 has it.
fn compare(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, text_b) = (take(&mut a, |c| !c.is_ascii_digit()), take(&mut b, |c| !c.is_ascii_digit()));
        let (digits_a, digits_b) =
            (take(&mut a, |c| c.is_ascii_digit()), take(&mut b, |c| c.is_ascii_digit()));
        let order = compare_text(text_a, text_b).then_with(|| compare_digits(digits_a, digits_b));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Splits off the longest beginning whose characters all fit.
fn take<'a>(text: &mut &'a str, fits: impl Fn(char) -> bool) -> &'a str {
    let end = text.find(|c| !fits(c)).unwrap_or(text.len());
    let (head, rest) = text.split_at(end);
    *text = rest;
    head
}

/// A tilde sorts before the end, the end before letters, letters before everything else.
fn compare_text(a: &str, b: &str) -> Ordering {
    let weight = |c: char| match c {
        '~' => 0,
        c if c.is_ascii_alphabetic() => 2 + u32::from(c),
        c => 2 + 0x100 + u32::from(c),
    };
    let with_end = |text: &str| text.chars().map(weight).chain([1]).collect::<Vec<_>>();
    with_end(a).cmp(&with_end(b))
}

/// Numbers of any length; none is zero.
fn compare_digits(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_are_ordered_as_policy_says() {
        let ascending = [
            "0~~",
            "0~~a",
            "0~",
            "0",
            "0a",
            "0+",
            "1.0~beta1~svc",
            "1.0~beta1",
            "1.0",
            "1.0-1~bpo12+1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-2",
            "1.0-10",
            "1.0.1",
            "1.2",
            "1.10",
            "6.12.94-1",
            "6.12.95-1~bpo12+1",
            "6.12.95-1",
            "1:0.1",
            "2:0",
        ];
        for pair in ascending.windows(2) {
            assert!(Version::new(pair[0]) < Version::new(pair[1]), "{pair:?}");
        }
        assert_eq!(Version::new("1.01-0"), Version::new("0:1.1"));
    }

    #[test]
    fn upstream_is_the_software_alone() {
        assert_eq!(Version::new("1:10.0.2+ds-2+deb13u1~bpo12+1").upstream(), "10.0.2");
        assert_eq!(Version::new("1.95.0+dfsg1-2~bpo13+1").upstream(), "1.95.0");
        assert_eq!(Version::new("6.12.95-1").upstream(), "6.12.95");
        assert_eq!(Version::new("1.95.0~beta.1+dfsg1-1").upstream(), "1.95.0");
    }

    #[test]
    fn a_series_is_not_a_prefix_of_digits() {
        assert!(Version::new("6.12.95-1").is_of_series("6.12"));
        assert!(Version::new("6.12-1").is_of_series("6.12"));
        assert!(!Version::new("6.120.1-1").is_of_series("6.12"));
        assert!(!Version::new("6.1.12-1").is_of_series("6.12"));
    }

    #[test]
    fn stanzas_are_read_and_incomplete_ones_left_out() {
        let sum = "3d1283d15afe078c9fa7a4de66d989fc7d84103912dc2792d5a85bfdb3eb88b5";
        let index = format!(
            "Package: busybox-static\nVersion: 1:1.35.0-4+b1\nDescription: a shell\n Size: not a field\nSize: 822236\n\
             SHA256: {sum}\n\nPackage: virtual\nVersion: 1\n\nPackage: x\nVersion: 2\nSize: many\nSHA256: {sum}\n"
        );
        let packages = Package::parse_all(&index);
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].size, 822_236);
        assert_eq!(packages[0].sha256, sum);
        assert_eq!(packages[0].entry_name(), "busybox-static_1.35.0-4+b1");
        assert_eq!(packages[0].to_string(), "busybox-static 1:1.35.0-4+b1");
    }

    #[test]
    fn sources_are_read_with_their_files() {
        let [one, two] = ["1", "2"].map(|digit| digit.repeat(64));
        let index = format!(
            "Package: qemu\nBinary: qemu-system, a\nVersion: 1:10.0.13+ds-0+deb13u1\nFiles:\n 00 7 qemu.dsc\n\
             Checksums-Sha256:\n {one} 12462 qemu.dsc\n {two} 40010016 qemu.orig.tar.xz\nHomepage: x\n\n\
             Package: qemu\nVersion: 2\nChecksums-Sha256:\n {two} 1 only.tar.xz\n\nPackage: none\n"
        );
        let sources = Source::parse_all(&index);
        let [qemu] = sources.as_slice() else { panic!("{sources:?}") };
        assert_eq!(qemu.to_string(), "qemu 1:10.0.13+ds-0+deb13u1");
        assert_eq!(qemu.files, [("qemu.dsc".into(), one), ("qemu.orig.tar.xz".into(), two)]);
        assert_eq!(qemu.description(), "qemu.dsc");
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in "[0-9a-z.+~:-]{0,12}", b in "[0-9a-z.+~:-]{0,12}", c in "[0-9a-z.+~:-]{0,12}") {
            let (a, b, c) = (Version::new(&a), Version::new(&b), Version::new(&c));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }

        #[test]
        fn a_tilde_comes_before_and_an_addition_after(version in "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}") {
            let plain = Version::new(&version);
            let with = |end: &str| Version::new(&format!("{version}{end}"));
            prop_assert!(with("~rc1") < plain);
            prop_assert!(with("+1") > plain);
            prop_assert!(with(".1") > plain);
        }

        #[test]
        fn any_text_is_read_without_panic(index in "(?s).{0,200}") {
            let _ = Package::parse_all(&index);
            let _ = Source::parse_all(&index);
        }
    }
}
