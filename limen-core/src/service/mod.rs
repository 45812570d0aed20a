//! The service.
/// The service.
#[derive(Debug)]
pub struct Limen;
/// Builds it.
#[derive(Debug)]
pub struct LimenBuilder;
