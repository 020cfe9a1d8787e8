//! Numbers of things in a text.

use std::fmt::Display;

/// `1 cluster`, `3 clusters`.
pub fn counted<N: Display + Copy + PartialEq + From<u8>>(number: N, one: &str, more: &str) -> String {
    format!("{number} {}", if number == N::from(1) { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural_and_none_is() {
        assert_eq!(counted(0_usize, "cluster", "clusters"), "0 clusters");
        assert_eq!(counted(1_u64, "cluster", "clusters"), "1 cluster");
        assert_eq!(counted(2_i64, "cluster", "clusters"), "2 clusters");
    }
}
