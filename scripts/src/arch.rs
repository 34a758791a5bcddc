//! The architectures Fermata runs on, as the host tool names them.

use std::fmt;
use std::str::FromStr;

/// An architecture of the hypervisor and of its guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Arch {
    /// 64-bit Arm.
    Aarch64,
    /// 64-bit LoongArch.
    Loongarch64,
}

impl Arch {
    /// Lists every architecture.
    pub(crate) const ALL: [Self; 2] = [Self::Aarch64, Self::Loongarch64];

    /// Names it as the command line, QEMU and Rust do.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64",
            Self::Loongarch64 => "loongarch64",
        }
    }

    /// Names the Rust target of everything bare-metal: softfloat, so that the compiler never touches FP registers.
    pub(crate) const fn rust_target(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64-unknown-none-softfloat",
            Self::Loongarch64 => "loongarch64-unknown-none-softfloat",
        }
    }

    /// Names the emulator's program.
    pub(crate) const fn emulator(self) -> &'static str {
        match self {
            Self::Aarch64 => "qemu-system-aarch64",
            Self::Loongarch64 => "qemu-system-loongarch64",
        }
    }
}

/// Which QEMU emulates an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Emulator {
    /// QEMU as it is distributed.
    Stock,
    /// QEMU with LoongArch's virtualisation extension, built by set-up from the distribution's source and the patch in
    /// `scripts/qemu-lvz`.
    Lvz,
}

impl Emulator {
    /// Lists every emulator.
    const ALL: [Self; 2] = [Self::Lvz, Self::Stock];

    /// Names it as the command line does.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Lvz => "lvz",
        }
    }
}

impl fmt::Display for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Emulator {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        Self::ALL.into_iter().find(|emulator| emulator.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|emulator| emulator.name()).collect();
            anyhow::anyhow!("unknown emulator {name:?}: expected one of {}", known.join(", "))
        })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Arch {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|arch| arch.name()).collect();
            anyhow::anyhow!("unknown architecture {name:?}: expected one of {}", known.join(", "))
        })
    }
}
