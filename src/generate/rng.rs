//! Random numbers by counting: the number of step `n` depends on the seed and `n` alone, so an answer can be
//! continued, replayed or computed elsewhere.

/// A number in [0, 1) for this step, a multiple of 2^-24.
pub(super) fn uniform(seed: u64, step: u64) -> f32 {
    let bits = mix(mix(seed).wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 40) as f32 / (1u32 << 24) as f32
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_and_repeatable() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf); // SplitMix64's first output from state 0
        let mut counts = [0u32; 16];
        for step in 0..16_000 {
            let u = uniform(7, step);
            assert!((0.0..1.0).contains(&u));
            assert_eq!(u, uniform(7, step));
            counts[(u * 16.0) as usize] += 1;
        }
        // 1000 expected in each, standard deviation 31.
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        assert_ne!(uniform(1, 0), uniform(2, 0));
    }
}
