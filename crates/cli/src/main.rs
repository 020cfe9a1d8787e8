//! keyward: the command line.
fn main() {}
