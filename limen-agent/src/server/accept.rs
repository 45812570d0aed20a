//! Which of two formats a reader asks for (RFC 9110, 12.5.1).

/// Whether `accept` wants the text of Prometheus more than JSON; without a preference it is JSON.
pub(super) fn wants_text(accept: &str) -> bool {
    let text = ["text/plain", "application/openmetrics-text"].map(|media| quality(accept, media));
    text.into_iter().fold(0.0, f32::max) > quality(accept, "application/json")
}

/// How much `media` is wanted, 0 to 1: by the range that names it best.
fn quality(accept: &str, media: &str) -> f32 {
    let whole_type = media.split('/').next().unwrap_or_default();
    let mut best = (0, 0.0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let rank = match name.split_once('/') {
            _ if name.eq_ignore_ascii_case(media) => 3,
            Some((kind, "*")) if kind.eq_ignore_ascii_case(whole_type) => 2,
            Some(("*", "*")) => 1,
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let quality = quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        if rank > best.0 || rank == best.0 && quality > best.1 {
            best = (rank, quality);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_gets_text_and_people_get_json() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in [prometheus, "text/plain", "text/*", "text/plain, application/json;q=0.9"] {
            assert!(wants_text(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "application/json",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/plain;q=0.5, application/json",
            "text/plain;q=0, */*",
            "nonsense",
        ] {
            assert!(!wants_text(accept), "{accept}");
        }
    }
}
