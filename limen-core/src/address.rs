//! Where another program of LIMEN's is: a scheme, a host, a port, and nothing more.

use reqwest::Url;

/// The address `text` is; none where it is no URL of `http` or `https`, or has a user, a path, a query or a
/// fragment: what is asked of it is LIMEN's to say.
pub(crate) fn parse(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_plain = ["http", "https"].contains(&url.scheme())
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    is_plain.then_some(url)
}
