//! GPUs by name: how many cores they have.
//!
//! No interface says how wide a GPU is, and yet work must be cut into as many pieces as keep all of it busy. What
//! maker and driver call an adapter usually says which chip it is. A core is what runs workgroups of its own: a
//! multiprocessor (NVIDIA), a core (Apple). Where a chip is sold with several counts the table has the greatest: pieces
//! that are a little too small cost less than idle cores.

/// Words of a name, and cores. The first line of which all words are in an adapter's name counts.
const CHIPS: &[(&[&str], u32)] = &[
    // Apple's own tables of technical specifications.
    (&["Apple", "M1", "Ultra"], 64),
    (&["Apple", "M1", "Max"], 32),
    (&["Apple", "M1", "Pro"], 16),
    (&["Apple", "M1"], 8),
    (&["Apple", "M2", "Ultra"], 76),
    (&["Apple", "M2", "Max"], 38),
    (&["Apple", "M2", "Pro"], 19),
    (&["Apple", "M2"], 10),
    (&["Apple", "M3", "Ultra"], 80),
    (&["Apple", "M3", "Max"], 40),
    (&["Apple", "M3", "Pro"], 18),
    (&["Apple", "M3"], 10),
    (&["Apple", "M4", "Max"], 40),
    (&["Apple", "M4", "Pro"], 20),
    (&["Apple", "M4"], 10),
    (&["Apple", "M5", "Max"], 40),
    (&["Apple", "M5", "Pro"], 20),
    (&["Apple", "M5"], 10),
    // NVIDIA's white papers of each architecture.
    (&["NVIDIA", "H100", "PCIe"], 114),
    (&["NVIDIA", "H100"], 132),
    (&["NVIDIA", "H200"], 132),
    (&["NVIDIA", "A100"], 108),
    (&["NVIDIA", "L40S"], 142),
    (&["NVIDIA", "L4"], 58),
    (&["NVIDIA", "T4"], 40),
    (&["NVIDIA", "5090"], 170),
    (&["NVIDIA", "5080"], 84),
    (&["NVIDIA", "4090"], 128),
    (&["NVIDIA", "4080"], 76),
    (&["NVIDIA", "4070"], 46),
    (&["NVIDIA", "4060"], 24),
    (&["NVIDIA", "3090"], 82),
    (&["NVIDIA", "3080"], 68),
    (&["NVIDIA", "3070"], 46),
    (&["NVIDIA", "3060"], 28),
];

/// The cores of an adapter of this name, if it is one that is known.
pub(super) fn cores(adapter: &str) -> Option<u32> {
    let has = |word: &&str| adapter.split(|c: char| !c.is_alphanumeric()).any(|part| part == *word);
    CHIPS.iter().find(|(words, _)| words.iter().all(has)).map(|(_, cores)| *cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_chip_it_is() {
        for (name, expected) in [
            ("Apple M1", Some(8)),
            ("Apple M2 Pro", Some(19)),
            ("Apple M3 Ultra", Some(80)),
            ("Apple M4 Max", Some(40)),
            ("Apple M5", Some(10)),
            ("Apple M9", None),
            ("NVIDIA H100 80GB HBM3", Some(132)),
            ("NVIDIA H100 PCIe", Some(114)),
            ("NVIDIA GeForce RTX 4090", Some(128)),
            ("NVIDIA L4", Some(58)),
            ("NVIDIA L40S", Some(142)),
            ("llvmpipe (LLVM 15.0.6, 256 bits)", None),
            ("", None),
        ] {
            assert_eq!(cores(name), expected, "{name}");
        }
    }
}
