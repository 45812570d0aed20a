//! `If-Match` and `If-None-Match`: what the client knows of an object.

use limen_core::{Error, ErrorKind};
use poem::http::HeaderMap;
use poem::{Request, RequestBody};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::error::{Problem, Result};

/// An `If-Match` or `If-None-Match` header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tags {
    /// `*`
    Any,
    /// The tags, without their quotes; weak ones are marked.
    Listed(Vec<(bool, String)>),
}

impl Tags {
    fn parse(headers: &HeaderMap, name: &'static str) -> Result<Option<Self>> {
        let malformed = || Problem::invalid(name, "It must hold entity tags in double quotes, or *.");
        let mut listed = Vec::new();
        for value in headers.get_all(name) {
            let text = value.to_str().map_err(|_| malformed())?.trim();
            if text == "*" {
                return Ok(Some(Tags::Any));
            }
            for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                let (weak, quoted) = part.strip_prefix("W/").map_or((false, part), |rest| (true, rest));
                let tag = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                listed.push((weak, tag.ok_or_else(malformed)?.to_owned()));
            }
        }
        Ok(if listed.is_empty() { None } else { Some(Tags::Listed(listed)) })
    }

    /// Whether the tag `"<version>.<revision>"` is among them, whole; weak ones count.
    pub(crate) fn hold(&self, tag: &str) -> bool {
        match self {
            Tags::Any => true,
            Tags::Listed(listed) => listed.iter().any(|(_, listed)| listed == tag),
        }
    }
}

/// The conditions of a request.
#[derive(Debug)]
pub(crate) struct Conditions {
    /// `If-Match`
    if_match: Option<Tags>,
    /// `If-None-Match`
    pub(crate) if_none_match: Option<Tags>,
}

impl Conditions {
    /// Whether `If-Match` holds more than one tag.
    pub(crate) fn names_several(&self) -> bool {
        matches!(&self.if_match, Some(Tags::Listed(listed)) if listed.len() > 1)
    }

    /// The record version that `If-Match` asks for: what stands before the dot. Of several it is
    /// the `current` one.
    pub(crate) fn expected_version(&self, current: Option<i64>) -> Result<Option<i64>> {
        let Some(Tags::Listed(listed)) = &self.if_match else { return Ok(None) };
        let mut versions = listed
            .iter()
            .filter(|(weak, _)| !weak)
            .filter_map(|(_, tag)| tag.split('.').next()?.parse::<i64>().ok())
            .filter(|version| current.is_none_or(|current| *version == current));
        match versions.next() {
            Some(version) => Ok(Some(version)),
            None => {
                Err(Problem::Core(Error::new(ErrorKind::PreconditionFailed, "The object changed since it was read.")))
            }
        }
    }
}

impl<'a> ApiExtractor<'a> for Conditions {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::PoemExtractor];
    type ParamType = ();
    type ParamRawType = ();

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        let headers = request.headers();
        Ok(Self { if_match: Tags::parse(headers, "if-match")?, if_none_match: Tags::parse(headers, "if-none-match")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_are_read_as_lists() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("if-match", text.parse().expect("a value"));
            Tags::parse(&headers, "if-match")
        };
        let listed = |tags: &[(bool, &str)]| {
            Some(Tags::Listed(tags.iter().map(|(weak, tag)| (*weak, (*tag).to_owned())).collect()))
        };
        assert_eq!(parse("").ok(), Some(None), "no tags are no condition");
        assert_eq!(parse("*").ok(), Some(Some(Tags::Any)));
        assert_eq!(parse("\"1.2\", W/\"3.4\" ,").ok(), Some(listed(&[(false, "1.2"), (true, "3.4")])));
        assert!(parse("1.2").is_err() && parse("W/").is_err());
    }
}
