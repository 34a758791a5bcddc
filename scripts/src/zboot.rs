//! EFI zboot images: a kernel compressed inside a small EFI program (Linux, drivers/firmware/efi/libstub/zboot-header.S).
//! It is unpacked here, because it takes firmware to run the program, and QEMU 10.0 unpacks gzip alone.

use anyhow::{Context, Result, bail, ensure};
use std::io::Read;

/// Longest kernel that is unpacked, in bytes: a small file can claim to be any length.
const LONGEST: u64 = 512 << 20;
/// Largest window of the compressed stream, in bytes. Distributions use the highest level of zstd, whose windows have
/// 128 MiB.
const LARGEST_WINDOW: u64 = 256 << 20;

/// Tells by its first bytes whether a file is such an image.
pub(crate) fn is_zboot(file: &[u8]) -> bool {
    file.starts_with(b"MZ") && file.get(4..8) == Some(b"zimg")
}

/// Unpacks the kernel of such an image.
///
/// # Errors
/// The file is none, is cut off, is compressed with something other than zstd, or unpacks to too much.
pub(crate) fn unpack(file: &[u8]) -> Result<Vec<u8>> {
    ensure!(is_zboot(file), "it is no EFI zboot image");
    let word = |at: usize| file.get(at..at + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    let (Some(at), Some(length), Some(method)) = (word(8), word(12), file.get(24..56)) else {
        bail!("it has {} bytes, less than the header of an EFI zboot image", file.len());
    };
    let method = method.split(|&byte| byte == 0).next().unwrap_or_default();
    ensure!(
        method == b"zstd",
        "it is an EFI zboot image compressed with {}; only zstd can be unpacked here",
        String::from_utf8_lossy(method)
    );
    let payload =
        usize::try_from(at).ok().and_then(|at| file.get(at..)?.get(..usize::try_from(length).ok()?));
    let payload = payload.with_context(|| {
        format!("its header names {length} bytes from {at:#x} on, the file has {} in all", file.len())
    })?;
    let stream = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(payload, LARGEST_WINDOW)
        .context("its compressed kernel is no zstd stream")?;
    let mut kernel = Vec::new();
    stream.take(LONGEST + 1).read_to_end(&mut kernel).context("its compressed kernel is damaged")?;
    ensure!(kernel.len() as u64 <= LONGEST, "it unpacks to more than {} MiB", LONGEST >> 20);
    Ok(kernel)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    /// Makes an image around a kernel.
    pub(crate) fn zboot(kernel: &[u8]) -> Vec<u8> {
        let payload = compress_to_vec(kernel, CompressionLevel::Fastest);
        let mut file = b"MZ\0\0zimg".to_vec();
        file.extend(64u32.to_le_bytes());
        file.extend((payload.len() as u32).to_le_bytes());
        file.resize(24, 0);
        file.extend(b"zstd");
        file.resize(64, 0);
        file.extend(payload);
        file.extend((kernel.len() as u32).to_le_bytes());
        file
    }

    fn why(file: &[u8]) -> String {
        format!("{:#}", unpack(file).unwrap_err())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = zboot(b"kernel");
        assert!(is_zboot(&good) && !is_zboot(b"MZ") && !is_zboot(b"\x7fELF"));
        assert!(why(b"MZ\0\0zimg").contains("8 bytes"));
        assert!(why(b"\x7fELF").contains("no EFI zboot image"));
        assert!(why(&good[..good.len() - 5]).contains("the file has"));
        let changed = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            why(&file)
        };
        assert!(changed(24, b"gzip").contains("compressed with gzip"));
        assert!(changed(64, b"ZZZZ").contains("no zstd stream"));
        assert!(changed(8, &[255; 4]).contains("from 0xffffffff on"));
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_out(kernel: Vec<u8>, zeros in 0usize..100_000) {
            let kernel = [kernel, vec![0; zeros]].concat();
            prop_assert_eq!(unpack(&zboot(&kernel)).unwrap(), kernel);
        }

        #[test]
        fn damage_is_an_error_or_another_kernel_but_no_panic(at in 0usize..200, byte: u8) {
            let mut file = zboot(&b"a kernel, as kernels are ".repeat(20));
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
            let _ = unpack(&file);
        }
    }
}
