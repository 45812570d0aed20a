//! The `limen` program.
fn main() {}
