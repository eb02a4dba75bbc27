//! MiniDebugInfo: an ELF file with the symbols of a stripped one, compressed into its section `.gnu_debugdata`.
//!
//! Fedora and its descendants build all packages so (GDB manual, "MiniDebugInfo"). The addresses are those of the
//! outer file. The section belongs to whoever made the file, so that neither its size nor what it grows to is trusted.

use lzma_rust2::{Action, Status, XzStream};

use super::BinaryError;

/// Compressed bytes that are read. Those of the largest programs are a few megabytes.
const MAX_COMPRESSED: usize = 16 << 20;
/// Bytes that it may grow to.
pub(super) const MAX_UNPACKED: usize = 64 << 20;
/// Memory for the decoder, in KiB. `xz -9`, the most that is usual, asks for a window of 64 MiB and little else.
const MAX_DECODER: u32 = 66 << 10;
/// Bytes by which the buffer grows (it takes no more memory than there is to hold) and which are decoded at a time.
const STEP: usize = 1 << 20;
const BITE: usize = 64 << 10;

/// The ELF file in an xz stream.
pub(super) fn unpack(compressed: &[u8]) -> Result<Vec<u8>, BinaryError> {
    let failed = |reason: String| BinaryError::MiniDebugInfo(reason);
    if compressed.len() > MAX_COMPRESSED {
        let size = compressed.len();
        return Err(failed(format!("{size} bytes, more than the {MAX_COMPRESSED} that are read")));
    }
    let mut stream = XzStream::new_mem_limit(false, MAX_DECODER);
    let (mut unpacked, mut filled, mut consumed) = (Vec::new(), 0, 0);
    loop {
        if filled == unpacked.len() {
            // One byte more than is allowed tells a file that just fits from one that goes on.
            unpacked.resize((filled + STEP).min(MAX_UNPACKED + 1), 0);
        }
        let bite = (consumed + BITE).min(compressed.len());
        let action = if bite == compressed.len() { Action::Finish } else { Action::Run };
        let step = stream
            .process(&compressed[consumed..bite], &mut unpacked[filled..], action)
            .map_err(|error| failed(error.to_string()))?;
        consumed += step.bytes_consumed;
        filled += step.bytes_produced;
        if filled > MAX_UNPACKED {
            return Err(failed(format!("they grow to more than {MAX_UNPACKED} bytes")));
        }
        if step.status == Status::StreamEnd {
            unpacked.truncate(filled);
            return Ok(unpacked);
        }
        if step.bytes_consumed == 0 && step.bytes_produced == 0 {
            return Err(failed("the xz stream ends too early".to_string()));
        }
        // Data that can't be compressed grows by a thousandth. Only a stream of millions of tiny or empty blocks, each
        // of which makes the decoder begin anew, is much longer than what is in it.
        if consumed > filled + filled / 8 + 2 * BITE {
            return Err(failed("the xz stream is longer than what is in it".to_string()));
        }
    }
}
