//! Request ids: the client's where it sent a plain one, else one of our own.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use poem::http::{HeaderName, HeaderValue};

/// The header, in both directions.
pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Takes over the client's id where it is 1 to 64 letters, digits, `.`, `_` or `-`.
pub(crate) fn choose(given: Option<&HeaderValue>) -> String {
    let given = given.and_then(|value| value.to_str().ok()).filter(|id| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
    });
    given.map_or_else(generate, str::to_owned)
}

/// 32 hex digits: 16 random ones of this process, then a counter.
fn generate() -> String {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let process = *PROCESS.get_or_init(rand::random);
    let wide = (u128::from(process) << 64) | u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    let mut id = String::with_capacity(32);
    for shift in (0..32).rev() {
        let digit = usize::try_from((wide >> (4 * shift)) & 0xf).unwrap_or_default();
        id.push(char::from(HEX[digit]));
    }
    id
}
