//! `/docs`: the document as a page that needs nothing but this server.

use bytes::Bytes;
use poem::http::{HeaderValue, header};
use poem::{Body, IntoResponse, Response};
use sha2::{Digest, Sha256};

/// The page, its policy, and the document itself; made once.
#[derive(Debug)]
pub(crate) struct Docs {
    page: Bytes,
    policy: HeaderValue,
    document: Bytes,
}

impl Docs {
    /// `page` is the user interface with the document written into it.
    pub(crate) fn new(page: String, document: Vec<u8>) -> Self {
        let policy = HeaderValue::from_str(&policy(&page)).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        Self { page: page.into(), policy, document: document.into() }
    }

    pub(crate) fn page(&self) -> Response {
        let mut response = answer(self.page.clone(), "text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        response
    }

    pub(crate) fn document(&self) -> Response {
        answer(self.document.clone(), "application/json")
    }
}

fn answer(body: Bytes, content_type: &'static str) -> Response {
    let mut response = Body::from_bytes(body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Allows the page's own scripts by their hashes, its own server to try calls on, and nothing else.
fn policy(page: &str) -> String {
    let scripts: Vec<String> = inline(page, "script").map(hash).collect();
    format!(
        "default-src 'none'; script-src {}; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        scripts.join(" ")
    )
}

fn inline<'a>(page: &'a str, element: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    let mut rest = page;
    std::iter::from_fn(move || {
        let at = rest.find(&open)?;
        let (_, after) = rest.get(at..)?.split_once('>')?;
        let end = after.find(&close)?;
        let (content, remainder) = after.split_at(end);
        rest = remainder;
        Some(content)
    })
}

fn hash(content: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = Sha256::digest(content.as_bytes());
    let mut text = String::from("'sha256-");
    for chunk in digest.chunks(3) {
        let wide = chunk.iter().fold(0_u32, |wide, byte| (wide << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let digit = usize::try_from((wide >> (18 - 6 * index)) & 0x3f).unwrap_or_default();
            text.push(if index <= chunk.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_inline_script_is_allowed_by_its_hash() {
        let page = "<html><script charset=\"UTF-8\">alert(1)</script><p>x</p><script></script></html>";
        // printf '%s' 'alert(1)' | openssl dgst -sha256 -binary | base64
        let policy = policy(page);
        assert!(policy.contains("'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"), "{policy}");
        assert!(policy.contains("'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"), "{policy}");
    }
}
