//! Tables of constants in the runtime's data.

use anyhow::{Context as _, Result, bail, ensure};
use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _};

/// No table is larger.
const MAX_BYTES: u64 = 1 << 16;

/// `runtime.class_to_size`, from Go 1.26 on `internal/runtime/gc.SizeClassToSize`.
pub fn class_to_size(elf: &File<'_>) -> Result<Vec<u16>> {
    let names = ["runtime.class_to_size", "internal/runtime/gc.SizeClassToSize"];
    let (address, bytes) = names
        .iter()
        .find_map(|name| symbol(elf, name))
        .with_context(|| format!("none of these symbols is in it: {}", names.join(", ")))?;
    let data = bytes_at(elf, address, bytes).context("the sizes of classes")?;
    let sizes: Vec<u16> = data.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
    ensure!(
        sizes.first() == Some(&0) && sizes.len() > 1 && sizes.is_sorted(),
        "sizes of classes should begin with 0 and grow: {sizes:?}"
    );
    Ok(sizes)
}

/// `runtime.waitReasonStrings`, an array of strings.
pub fn wait_reasons(elf: &File<'_>) -> Result<Vec<String>> {
    const NAME: &str = "runtime.waitReasonStrings";
    let (address, bytes) = symbol(elf, NAME).with_context(|| format!("no symbol {NAME} is in it"))?;
    let strings = bytes_at(elf, address, bytes).context(NAME)?;
    let reasons = strings.chunks_exact(16).map(|string| {
        let (text, length) = (word(&string[..8]), word(&string[8..]));
        // Go leaves a number without a text where it has none (the first, "no reason").
        if length == 0 {
            return Ok(String::new());
        }
        Ok(std::str::from_utf8(bytes_at(elf, text, length)?)?.to_owned())
    });
    let reasons = reasons.collect::<Result<Vec<_>>>().context(NAME)?;
    ensure!(reasons.len() > 10, "{NAME} has {} entries only", reasons.len());
    Ok(reasons)
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Address and size of a symbol.
fn symbol(elf: &File<'_>, name: &str) -> Option<(u64, u64)> {
    elf.symbols().find(|symbol| symbol.name() == Ok(name)).map(|symbol| (symbol.address(), symbol.size()))
}

/// What lies at an address of the program.
fn bytes_at<'a>(elf: &File<'a>, address: u64, bytes: u64) -> Result<&'a [u8]> {
    ensure!(bytes <= MAX_BYTES, "{bytes} bytes at {address:#x} are too many");
    for section in elf.sections().filter(|section| section.address() != 0) {
        if let Some(data) = section.data_range(address, bytes)? {
            return Ok(data);
        }
    }
    bail!("nothing lies at {address:#x}")
}
