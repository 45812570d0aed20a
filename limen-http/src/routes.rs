//! Which methods each path answers, for the `Allow` of a 405.

use serde_json::Value;

/// The paths of the server with their methods, as `Allow` lists them.
#[derive(Debug)]
pub(crate) struct Routes(Vec<(Vec<Segment>, String)>);

#[derive(Debug)]
enum Segment {
    Is(String),
    Any,
}

impl Routes {
    /// Reads them from the document, and adds those that are no part of it.
    pub(crate) fn new(document: &Value, others: &[&str]) -> Self {
        let mut table: Vec<(Vec<Segment>, String)> = Vec::new();
        for (path, operations) in document["paths"].as_object().into_iter().flatten() {
            let mut methods: Vec<String> =
                operations.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase()).collect();
            if methods.iter().any(|method| method == "GET") {
                methods.push("HEAD".to_owned());
            }
            methods.sort();
            table.push((segments(path), methods.join(", ")));
        }
        table.extend(others.iter().map(|path| (segments(path), "GET, HEAD".to_owned())));
        Self(table)
    }

    /// The methods of `path`, where there is such a path.
    pub(crate) fn allowed(&self, path: &str) -> Option<String> {
        let given: Vec<&str> = path.split('/').collect();
        let fits = |segments: &[Segment]| {
            segments.len() == given.len()
                && segments.iter().zip(&given).all(|(segment, part)| match segment {
                    Segment::Is(name) => name == part,
                    Segment::Any => !part.is_empty(),
                })
        };
        self.0.iter().find(|(segments, _)| fits(segments)).map(|(_, methods)| methods.clone())
    }
}

fn segments(path: &str) -> Vec<Segment> {
    path.split('/')
        .map(|part| if part.starts_with('{') { Segment::Any } else { Segment::Is(part.to_owned()) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_known_by_its_template() {
        let document = serde_json::json!({"paths": {
            "/api/vms": {"get": {}, "post": {}},
            "/api/vms/{id}": {"delete": {}, "get": {}},
            "/api/vms/{id}/power": {"post": {}},
        }});
        let routes = Routes::new(&document, &["/docs"]);
        assert_eq!(routes.allowed("/api/vms").as_deref(), Some("GET, HEAD, POST"));
        assert_eq!(routes.allowed("/api/vms/x").as_deref(), Some("DELETE, GET, HEAD"));
        assert_eq!(routes.allowed("/api/vms/x/power").as_deref(), Some("POST"));
        assert_eq!(routes.allowed("/docs").as_deref(), Some("GET, HEAD"));
        assert_eq!(routes.allowed("/api/vms/"), None);
    }
}
