//! The machine's apt, with sources and state of our own: packages are resolved, verified and fetched by it, and the
//! user's configuration of sources stays as it is.
//!
//! What the user set otherwise (proxies, certificates, credentials) stays in force: our file is read after theirs.
//! The address of the archive is the one the machine's own apt uses.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::cache::{Cache, Lock, sha256};
use super::deb::{Package, Source};
use super::process;
use super::progress::Step;

/// Where a keyring package puts Debian's keys; without one of them, apt's own trusted keys count.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// Debian's archive, as this machine reaches it.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The release's name: `bookworm`.
    pub(crate) codename: String,
    /// Where `dists/` and `pool/` are.
    main: String,
    /// Where the security updates are, if the machine takes any.
    security: Option<String>,
}

/// What apt resolves in: some suites, and an architecture.
pub(crate) struct World<'a> {
    /// A name for the folder of its state.
    pub(crate) name: &'a str,
    /// Suites of the main archive.
    pub(crate) suites: &'a [&'a str],
    /// The architecture to resolve for: Debian's name of a foreign one, or this machine itself with what it has installed.
    pub(crate) host: Host<'a>,
}

/// Whose packages a [`World`] has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host<'a> {
    /// This machine's, to install.
    ThisMachine,
    /// Those of an architecture, to fetch and unpack.
    Foreign(&'a str),
    /// No architecture's: source packages.
    Source,
}

/// An apt with an index of its own.
pub(crate) struct Apt {
    config: PathBuf,
}

impl Archive {
    /// Finds it through this machine's apt.
    ///
    /// # Errors
    /// On another distribution, without apt, and when its sources name no Debian archive.
    pub(crate) fn of_this_machine(cache: &Cache, lock: &Lock) -> Result<Self> {
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = codename(&os).context("this is not Debian")?;
        let empty = cache.scratch(lock)?;
        // With empty state of its own, apt names every release file that its sources ask for.
        let mut apt = Command::new("apt-get");
        apt.args([
            "-o",
            &format!("Dir::State::Lists={}", empty.path().display()),
            "-o",
            "Debug::NoLocking=1",
        ]);
        let uris = process::output(apt.args(["update", "--print-uris"]))?;
        let sources = sources(&uris);
        let mut candidates: Vec<_> =
            sources.iter().filter(|source| source.1 == codename).map(|source| source.0).collect();
        candidates.dedup();
        let security = format!("{codename}-security");
        let security = sources.iter().find(|source| source.1 == security).map(|source| source.0.to_owned());
        let with = |main: &str| Self {
            codename: codename.clone(),
            main: main.to_owned(),
            security: security.clone(),
        };
        match candidates[..] {
            [] => bail!("apt has no source for {codename}: add Debian's archive to /etc/apt/sources.list"),
            [only] => Ok(with(only)),
            // Others publish suites of the same name; only Debian's has this one, under Debian's signature.
            _ => candidates
                .iter()
                .map(|main| with(main))
                .find(|archive| archive.is_debian(cache))
                .with_context(|| {
                    format!(
                        "none of apt's sources for {codename} is Debian's archive: {}",
                        candidates.join(", ")
                    )
                }),
        }
    }

    fn is_debian(&self, cache: &Cache) -> bool {
        let suites = [&*format!("{}-updates", self.codename)];
        let world = World { name: "probe", suites: &suites, host: Host::Foreign("arm64") };
        Apt::open(cache, self, &world).is_ok()
    }
}

impl Apt {
    /// Makes the configuration and fetches the index.
    pub(crate) fn open(cache: &Cache, archive: &Archive, world: &World<'_>) -> Result<Self> {
        let folder = cache.folder("apt").join(world.name);
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
        fs::write(folder.join("debian.sources"), archive.stanzas(world, keyring))?;
        fs::write(folder.join("status"), "")?;
        let config = folder.join("apt.conf");
        fs::write(&config, configuration(&folder, world.host))?;
        let apt = Self { config };
        let step = Step::new("Fetching", &format!("the package index of {}", world.suites.join(", ")));
        let mut update = apt.command("apt-get");
        // A source that cannot be reached is an error and not a warning.
        update.args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]);
        run(&mut update, &step)
            .context("the package index could not be fetched: is the network reachable?")?;
        Ok(apt)
    }

    /// The packages, in every version, whose names begin with `prefix` and end with `suffix`.
    pub(crate) fn packages(&self, prefix: &str, suffix: &str) -> Result<Vec<Package>> {
        let names = process::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        let names: Vec<_> = names.lines().filter(|name| name.ends_with(suffix)).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let index = process::output(self.command("apt-cache").args(["show", "--all-versions"]).args(names))?;
        Ok(Package::parse_all(&index))
    }

    /// Fetches a package's file into a folder and checks it against the index.
    pub(crate) fn fetch(&self, package: &Package, folder: &Path) -> Result<PathBuf> {
        let size = package.size as f64 / 1e6;
        let step = Step::new("Fetching", &format!("{package} ({size:.1} MB)"));
        let folder = folder.join(&package.name);
        fs::create_dir_all(&folder)?;
        let mut download = self.command("apt-get");
        download
            .args(["-q", "download", &format!("{}={}", package.name, package.version)])
            .current_dir(&folder);
        run(&mut download, &step).with_context(|| format!("{package} could not be fetched"))?;
        let file = super::cache::file_names(&folder)?.pop().context("apt-get fetched nothing")?;
        let file = folder.join(file);
        let found = sha256(&file)?;
        ensure!(
            found == package.sha256,
            "{package} is not what the archive's index says: its SHA-256 is {found} and not {}. \
             Try again; if it stays so, the mirror is broken",
            package.sha256
        );
        Ok(file)
    }

    /// The newest version of a source package that is of the series `major.minor`.
    pub(crate) fn source(&self, name: &str, series: &str) -> Result<Option<Source>> {
        // A name that is not there is an error of the program's.
        let index = process::output(self.command("apt-cache").args(["showsrc", name])).unwrap_or_default();
        let fits = |source: &Source| source.name == name && source.version.is_of_series(series);
        let sources = Source::parse_all(&index).into_iter().filter(fits);
        Ok(sources.max_by(|a, b| a.version.cmp(&b.version)))
    }

    /// Fetches the files of a source package into an empty folder and checks them against the index.
    pub(crate) fn fetch_source(&self, source: &Source, folder: &Path) -> Result<()> {
        let step = Step::new("Fetching", &format!("the source of {source}"));
        let mut download = self.command("apt-get");
        let which = format!("{}={}", source.name, source.version);
        download.args(["-q", "source", "--download-only", &which]).current_dir(folder);
        run(&mut download, &step).with_context(|| format!("the source of {source} could not be fetched"))?;
        for (name, sum) in &source.files {
            let found = sha256(&folder.join(name)).with_context(|| format!("apt-get fetched no {name}"))?;
            ensure!(
                found == *sum,
                "{name} is not what the archive's index says: its SHA-256 is {found} and not {sum}"
            );
        }
        Ok(())
    }

    /// Installs a package on this machine: as root directly, else through sudo.
    pub(crate) fn install(&self, package: &Package, codename: &str) -> Result<()> {
        let suite = package.version.is_backport().then(|| format!("{codename}-backports"));
        let which = [format!("{}={}", package.name, package.version)];
        self.install_all(&which, suite.as_deref(), &package.to_string())
    }

    /// Installs packages on this machine, preferably from a suite if one is given.
    pub(crate) fn install_all(&self, which: &[String], suite: Option<&str>, what: &str) -> Result<()> {
        let mut arguments = vec!["-q".to_owned(), "-y".to_owned(), "--no-install-recommends".to_owned()];
        arguments.extend(["-o".to_owned(), "DPkg::Lock::Timeout=600".to_owned()]);
        // As root apt would leave root's files in the cache; what it installs it keeps where it always does.
        arguments.extend(["-o".to_owned(), "Dir::Cache::archives=/var/cache/apt/archives".to_owned()]);
        arguments.extend(suite.into_iter().flat_map(|suite| ["-t".to_owned(), suite.to_owned()]));
        arguments.push("install".to_owned());
        arguments.extend_from_slice(which);
        let root = Root::take()?;
        // Without root it fails where there is something to report.
        if !root.command("dpkg").arg("--audit").output()?.stdout.is_empty() {
            let step = Step::new("Finishing", "an installation that was interrupted (dpkg --configure -a)");
            // It fails where a package has to be unpacked again; apt does that next, or says what is wrong.
            let _ = run(root.command("dpkg").args(["--configure", "-a"]), &step);
        }
        let step = Step::new("Installing", &format!("{what} with apt"));
        run(root.command("apt-get").arg("-c").arg(&self.config).args(STATUS).args(arguments), &step)?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").arg("-c").arg(&self.config).args(STATUS);
        command
    }
}

/// Asks apt for its progress, in lines of its own on standard output.
const STATUS: [&str; 2] = ["-o", "APT::Status-Fd=1"];

/// How commands become root's.
enum Root {
    Already,
    Sudo,
}

impl Root {
    fn take() -> Result<Self> {
        // The owner of a process's folder is its effective user.
        if fs::metadata("/proc/self")?.uid() == 0 {
            return Ok(Self::Already);
        }
        let sudo = |arguments: &[&str]| {
            Command::new("sudo").args(arguments).status().is_ok_and(|status| status.success())
        };
        // Where sudo wants a password, and only there, it asks now, in its own words and before any bar is drawn.
        ensure!(sudo(&["-n", "true"]) || sudo(&["-v"]), "this needs root, and sudo does not give it");
        Ok(Self::Sudo)
    }

    fn command(&self, program: &str) -> Command {
        let environment = ["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"];
        match self {
            Self::Already => {
                let mut command = Command::new("env");
                command.args(environment).arg(program);
                command
            }
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(["-n", "env"]).args(environment).arg(program);
                command
            }
        }
    }
}

/// Runs apt or dpkg, and shows the progress it reports.
fn run(command: &mut Command, step: &Step) -> Result<String> {
    process::stream(command, |line| {
        if let Some(percent) = progress(line) {
            step.percent(percent);
        }
    })
}

/// Reads `dlstatus:FILES:PERCENT:TEXT` and `pmstatus:PACKAGE:PERCENT:TEXT`, as in apt's README.progress-reporting.
fn progress(line: &str) -> Option<f64> {
    let mut fields = line.split(':');
    let kind = fields.next()?;
    if kind != "dlstatus" && kind != "pmstatus" {
        return None;
    }
    // A package's name may have its architecture after a colon; the percentage is the next number with a point.
    fields.find(|field| field.contains('.'))?.parse().ok()
}

/// The release's name from the text of `/etc/os-release`, if that is Debian.
fn codename(os_release: &str) -> Option<String> {
    let value = |key: &str| {
        let value = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim_matches('"').to_owned())
    };
    (value("ID")? == "debian").then(|| value("VERSION_CODENAME"))?
}

/// Address and suite of every release file in the output of `apt-get update --print-uris`.
fn sources(uris: &str) -> Vec<(&str, &str)> {
    fn release(line: &str) -> Option<(&str, &str)> {
        let uri = line.strip_prefix('\'')?.split_once('\'')?.0.strip_suffix("/InRelease")?;
        uri.split_once("/dists/")
    }
    uris.lines().filter_map(release).collect()
}

impl Archive {
    /// The deb822 text of a world's sources.
    fn stanzas(&self, world: &World<'_>, keyring: Option<&str>) -> String {
        let (kind, target) = match world.host {
            Host::Source => ("deb-src", "Sources"),
            Host::ThisMachine | Host::Foreign(_) => ("deb", "Packages"),
        };
        let stanza = |uri: &str, suites: &str| {
            let mut text = format!(
                "Types: {kind}\nURIs: {uri}\nSuites: {suites}\nComponents: main\nTargets: {target}\n"
            );
            if let Host::Foreign(arch) = world.host {
                text += &format!("Architectures: {arch}\n");
            }
            if let Some(keyring) = keyring {
                text += &format!("Signed-By: {keyring}\n");
            }
            text + "\n"
        };
        let uri = match &self.security {
            // Security updates of any release are in an archive of their own.
            Some(security) if world.suites.iter().all(|suite| suite.ends_with("-security")) => security,
            _ => &self.main,
        };
        let mut text = stanza(uri, &world.suites.join(" "));
        if let (Some(security), Host::ThisMachine) = (&self.security, world.host) {
            text += &stanza(security, &format!("{}-security", self.codename));
        }
        text
    }
}

/// The text of our apt.conf.
fn configuration(folder: &Path, host: Host<'_>) -> String {
    let folder = folder.display();
    let mut text = format!(
        "// Made by `cargo xtask setup`; read after the machine's own.\n\
         #clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
         Dir::Etc::sourcelist \"{folder}/debian.sources\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State::Lists \"{folder}/lists\";\n\
         Dir::Cache \"{folder}\";\n\
         Dir::Cache::archives \"{folder}/archives\";\n\
         Dir::Cache::pkgcache \"\";\n\
         Dir::Cache::srcpkgcache \"\";\n\
         // The user that apt downloads as cannot write to a home.\n\
         APT::Sandbox::User \"root\";\n"
    );
    if let Host::Foreign(arch) = host {
        text += &format!(
            "#clear APT::Architectures;\n\
             APT::Architecture \"{arch}\";\n\
             APT::Architectures {{ \"{arch}\"; }};\n\
             // Resolves as if nothing were installed.\n\
             Dir::State::status \"{folder}/status\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_known_only_on_debian() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"trixie\"\nID=\"debian\"").as_deref(), Some("trixie"));
        assert_eq!(codename("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble"), None);
        assert_eq!(codename(""), None);
    }

    #[test]
    fn sources_come_from_the_release_files_apt_asks_for() {
        let uris = "'http://mirror/main/dists/bookworm/InRelease' mirror_InRelease 0 \n\
                    'http://mirror/main/dists/bookworm/main/binary-amd64/Packages.xz' mirror_Packages 0 \n\
                    'http://mirror/security/dists/bookworm-security/InRelease' x 0 \n\
                    E: not a line of the kind\n";
        assert_eq!(
            sources(uris),
            [("http://mirror/main", "bookworm"), ("http://mirror/security", "bookworm-security")]
        );
    }

    #[test]
    fn progress_lines_give_their_percentage() {
        assert_eq!(progress("dlstatus:1:20.5:Retrieving file 1 of 3 (1:00 remaining)"), Some(20.5));
        assert_eq!(progress("pmstatus:libfdt1:amd64:47.3684:Unpacking libfdt1"), Some(47.3684));
        assert_eq!(progress("Setting up libfdt1:amd64 (1.6.1-4) ..."), None);
        assert_eq!(progress("dlstatus:"), None);
    }

    #[test]
    fn sources_come_from_the_archive_of_their_suite() {
        let security = Some("http://m/s".to_owned());
        let archive = Archive { codename: "bookworm".into(), main: "http://m/main".into(), security };
        let text =
            |suite: &str| archive.stanzas(&World { name: "x", suites: &[suite], host: Host::Source }, None);
        let plain =
            "Types: deb-src\nURIs: http://m/main\nSuites: trixie\nComponents: main\nTargets: Sources\n\n";
        assert_eq!(text("trixie"), plain);
        assert!(text("trixie-security").contains("URIs: http://m/s\nSuites: trixie-security\n"));
    }

    #[test]
    fn a_foreign_world_knows_nothing_of_this_machine() {
        let archive = Archive {
            codename: "bookworm".into(),
            main: "http://m/main".into(),
            security: Some("http://m/s".into()),
        };
        let foreign = World { name: "guests", suites: &["bookworm", "trixie"], host: Host::Foreign("arm64") };
        let text = archive.stanzas(&foreign, Some("/keys"));
        assert!(text.contains("Suites: bookworm trixie\n") && text.contains("Architectures: arm64\n"));
        assert!(text.contains("Signed-By: /keys\n") && !text.contains("http://m/s"));
        let here = World { name: "host", suites: &["bookworm-backports"], host: Host::ThisMachine };
        let text = archive.stanzas(&here, None);
        assert!(
            text.contains("URIs: http://m/s\nSuites: bookworm-security\n") && !text.contains("Signed-By")
        );
    }
}
