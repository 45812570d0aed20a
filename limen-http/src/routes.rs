//! Which paths there are, and which methods each answers: for the `Allow` of a 405, and for the
//! figures, which name the pattern of a path and never the path.

use std::sync::Arc;

use poem::http::Method;
use serde_json::Value;

/// The paths of the server.
#[derive(Debug)]
pub(crate) struct Routes(Vec<Route>);

/// A pattern of paths, with its methods.
#[derive(Debug)]
pub(crate) struct Route {
    pattern: Arc<str>,
    segments: Vec<Segment>,
    /// In the order of their names.
    methods: Vec<Method>,
}

#[derive(Debug)]
enum Segment {
    Is(String),
    Any,
    /// This one and all that follow.
    Rest,
}

impl Routes {
    /// Reads them from the document, and adds those that are no part of it and are only read: a
    /// pattern of these may end with `*`, for all that follows.
    pub(crate) fn new(document: &Value, others: &[&str]) -> Self {
        let mut routes = Vec::new();
        for (path, operations) in document["paths"].as_object().into_iter().flatten() {
            let names = operations.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase());
            let mut methods: Vec<Method> = names.filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect();
            if methods.contains(&Method::GET) {
                methods.push(Method::HEAD);
            }
            routes.push(Route::new(path, methods));
        }
        routes.extend(others.iter().map(|path| Route::new(path, vec![Method::GET, Method::HEAD])));
        Self(routes)
    }

    /// The route of `path`, where there is one.
    pub(crate) fn find(&self, path: &str) -> Option<&Route> {
        self.0.iter().find(|route| route.fits(path))
    }
}

impl Route {
    fn new(pattern: &str, mut methods: Vec<Method>) -> Self {
        methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        Self { pattern: pattern.into(), segments: segments(pattern), methods }
    }

    fn fits(&self, path: &str) -> bool {
        let mut given = path.split('/');
        for segment in &self.segments {
            match (segment, given.next()) {
                (Segment::Rest, Some(_)) => return true,
                (Segment::Is(name), Some(part)) if name == part => {}
                (Segment::Any, Some(part)) if !part.is_empty() => {}
                _ => return false,
            }
        }
        given.next().is_none()
    }

    /// The pattern: `/api/vms/{id}`.
    pub(crate) fn pattern(&self) -> Arc<str> {
        Arc::clone(&self.pattern)
    }

    pub(crate) fn answers(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }

    /// The methods, as `Allow` lists them.
    pub(crate) fn allowed(&self) -> String {
        self.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
    }
}

fn segments(path: &str) -> Vec<Segment> {
    let segment = |part: &str| match part {
        "*" => Segment::Rest,
        part if part.starts_with('{') => Segment::Any,
        part => Segment::Is(part.to_owned()),
    };
    path.split('/').map(segment).collect()
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
        let routes = Routes::new(&document, &["/docs", "/files/*"]);
        let allowed = |path: &str| routes.find(path).map(Route::allowed);
        assert_eq!(allowed("/api/vms").as_deref(), Some("GET, HEAD, POST"));
        assert_eq!(allowed("/api/vms/x").as_deref(), Some("DELETE, GET, HEAD"));
        assert_eq!(allowed("/api/vms/x/power").as_deref(), Some("POST"));
        assert_eq!(allowed("/docs").as_deref(), Some("GET, HEAD"));
        for path in ["/files/", "/files/a", "/files/a/b"] {
            assert_eq!(routes.find(path).map(|route| &*route.pattern), Some("/files/*"), "{path}");
        }
        for path in ["/api/vms/", "/api", "/files", "/api/vms/x/power/y", "", "/"] {
            assert!(routes.find(path).is_none(), "{path}");
        }
    }
}
