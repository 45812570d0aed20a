//! The headers that every answer has, exactly once.

use poem::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::request_id::X_REQUEST_ID;

/// The headers that the operations guide promises on every answer, but for the two that differ.
static SECURITY_HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::X_XSS_PROTECTION, HeaderValue::from_static("1; mode=block")),
    (header::REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static(
            "accelerometer=(), camera=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), payment=(), usb=()",
        ),
    ),
];
/// Nothing that this server answers is a page, but for /docs, which brings its own.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
const STRICT_TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");

/// Puts them on an answer; what the answer had of them itself goes, but for one policy of its own.
pub(super) fn add(headers: &mut HeaderMap, https: bool, path: &str, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(&X_REQUEST_ID, value);
    }
    for (name, value) in &SECURITY_HEADERS {
        headers.insert(name, value.clone());
    }
    if headers.get_all(header::CONTENT_SECURITY_POLICY).iter().count() != 1 {
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    }
    if https {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT_SECURITY);
    } else {
        // Over http it means nothing, and a proxy that ends TLS decides by itself.
        headers.remove(header::STRICT_TRANSPORT_SECURITY);
    }
    if path.starts_with("/api") {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}
