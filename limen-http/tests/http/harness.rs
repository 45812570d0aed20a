//! A server in this process: the endpoint itself, without a network between.

use std::io::Read;
use std::sync::Arc;

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::service::{AdminSeed, HostConfig, Timings};
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Authz, Limen, Secret};
use limen_http::{App, endpoint};
use poem::endpoint::BoxEndpoint;
use poem::http::{HeaderMap, Method, StatusCode};
use poem::{Endpoint, EndpointExt, Request, Response};
use serde_json::{Value, json};

pub(crate) const PASSWORD: &str = "correct horse 1";
pub(crate) const SECRET: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// The OpenAPI document, to which every answer of every test is held.
pub(crate) struct Contract(Value);

impl Contract {
    pub(crate) fn new() -> Self {
        Self(limen_http::document().expect("a document"))
    }

    /// Holds `value` to the schema of this name.
    #[track_caller]
    pub(crate) fn fits_schema(&self, name: &str, value: &Value) {
        self.fits(&self.0["components"]["schemas"][name], value, name);
    }

    #[track_caller]
    fn hold(&self, method: &Method, path: &str, answer: &Answer) {
        let parts: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').collect();
        let fits = |template: &String| {
            let template: Vec<&str> = template.split('/').collect();
            template.len() == parts.len() && template.iter().zip(&parts).all(|(t, p)| t.starts_with('{') || t == p)
        };
        let paths = self.0["paths"].as_object().expect("paths");
        let Some((_, operations)) = paths.iter().find(|(template, _)| fits(template)) else { return };
        let Some(operation) = operations.get(method.as_str().to_lowercase()) else { return };
        let documented = &operation["responses"][answer.status.as_str()];
        assert!(documented.is_object(), "{method} {path} answered {}, which is not documented", answer.status);
        let Some(content) = documented["content"].as_object() else {
            assert!(answer.bytes.is_empty(), "{method} {path}: a body that is not documented");
            return;
        };
        let schema = &content[answer.header("content-type")]["schema"];
        if answer.header("content-type").starts_with("text/plain") {
            return assert_eq!(schema["type"], "string", "{method} {path}");
        }
        self.fits(schema, &answer.json(), &format!("{method} {path}"));
    }

    /// As far as drift between serde and the document goes: types, names, what is required.
    #[track_caller]
    fn fits(&self, schema: &Value, value: &Value, at: &str) {
        let of = |pointer: &str| self.0.pointer(pointer.trim_start_matches('#')).expect("a reference that is there");
        if let Some(reference) = schema["$ref"].as_str() {
            return self.fits(of(reference), value, at);
        }
        if value.is_null() {
            assert_eq!(schema["nullable"], true, "{at} is null");
            return;
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.fits(part, value, at);
        }
        if let Some(values) = schema["enum"].as_array() {
            assert!(values.contains(value), "{at}: {value} is not among {values:?}");
        }
        match schema["type"].as_str() {
            Some("object") => {
                let object = value.as_object().unwrap_or_else(|| panic!("{at}: {value} is no object"));
                for name in schema["required"].as_array().into_iter().flatten() {
                    assert!(object.contains_key(name.as_str().expect("a name")), "{at}: no {name}");
                }
                for (name, member) in object {
                    let known = schema["properties"].get(name).or_else(|| {
                        schema["additionalProperties"].is_object().then(|| &schema["additionalProperties"])
                    });
                    let known = known.unwrap_or_else(|| panic!("{at}.{name} is not documented"));
                    self.fits(known, member, &format!("{at}.{name}"));
                }
            }
            Some("array") => {
                let items = value.as_array().unwrap_or_else(|| panic!("{at}: {value} is no array"));
                items.iter().for_each(|item| self.fits(&schema["items"], item, &format!("{at}[]")));
            }
            Some("string") => assert!(value.is_string(), "{at}: {value}"),
            Some("boolean") => assert!(value.is_boolean(), "{at}: {value}"),
            Some("integer") => assert!(value.is_i64() || value.is_u64(), "{at}: {value}"),
            Some("number") => assert!(value.is_number(), "{at}: {value}"),
            _ => {}
        }
    }
}

pub(crate) struct Server {
    pub(crate) sim: SimHypervisor,
    pub(crate) limen: Limen,
    endpoint: BoxEndpoint<'static, Response>,
    contract: Contract,
    _images: tempfile::TempDir,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("text")).unwrap_or_default()
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }

    /// The `code` of the problem document, which must be whole.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16(), "{problem}");
        assert_eq!(problem["request_id"], self.header("x-request-id"), "{problem}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
        }
        problem["code"].as_str().expect("a code").to_owned()
    }
}

/// How often the counters of VMs are read.
pub(crate) const SAMPLE: std::time::Duration = std::time::Duration::from_secs(2);

impl Server {
    /// A server whose simulator starts with `vms` VMs, owner admin.
    pub(crate) async fn start(vms: u32) -> Self {
        Self::with_authz(vms, Arc::new(RoleAuthz)).await
    }

    pub(crate) async fn with_authz(vms: u32, authz: Arc<dyn Authz>) -> Self {
        let sim = SimHypervisor::builder().vms(vms).seed(7).build();
        let images = tempfile::tempdir().expect("a directory");
        let limen = Limen::builder()
            .store(Arc::new(SqliteStore::in_memory().await.expect("a store")))
            .authz(authz)
            .host(HostConfig::new("here", "sim:///", Arc::new(sim.clone())))
            .timings(Timings { sample: SAMPLE, ..Timings::default() })
            .images(images.path().join("images"))
            .admin(AdminSeed { name: "admin".to_owned(), password: Secret::new(PASSWORD) })
            .build()
            .await
            .expect("a service");
        let app = App::new(limen.clone(), &Secret::new(SECRET));
        let endpoint = endpoint(Arc::new(app)).expect("an endpoint").boxed();
        let contract = Contract::new();
        let server = Self { limen, sim, endpoint, contract, _images: images };
        server.until_ready(vms).await;
        server
    }

    /// The host is owned and observed, and what the simulator starts with is recorded.
    async fn until_ready(&self, vms: u32) {
        for _ in 0..500 {
            let ready = self.get("/api/health/ready", "").await.status == StatusCode::OK;
            let context = limen_core::Context::local();
            let page = self.limen.list_vms(&context, &Default::default(), Default::default()).await;
            let managed = page.map_or(0, |page| {
                let page: Value = serde_json::from_slice(&page.json).expect("JSON");
                page["items"].as_array().map_or(0, |items| items.iter().filter(|vm| vm["managed"] == true).count())
            });
            if ready && managed >= vms.min(100) as usize {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        // A policy that refuses everything has nothing to get ready.
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = Request::builder().method(method.clone()).uri(path.parse().expect("a path"));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.endpoint.call(request.body(body)).await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        if headers.get("content-type").is_some_and(|kind| kind == "text/event-stream") {
            // It does not end: only its head is looked at here.
            return Answer { status, headers, bytes: Vec::new() };
        }
        let mut bytes = response.into_body().into_vec().await.expect("a body");
        if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("gzip");
            bytes = plain;
        }
        let answer = Answer { status, headers, bytes };
        if path.starts_with("/api/") && method != Method::HEAD {
            self.contract.hold(&method, path, &answer);
        }
        answer
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, token, &[], Vec::new()).await
    }

    pub(crate) async fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> Answer {
        self.call_with(method, path, token, &[], body).await
    }

    pub(crate) async fn call_with(
        &self,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        self.send(method, path, token, &headers, body.to_string().into_bytes()).await
    }

    /// A token of `user`, whose password is the usual one.
    pub(crate) async fn login(&self, user: &str) -> String {
        let body = json!({"username": user, "password": PASSWORD});
        let answer = self.call("POST", "/api/auth/login", "", &body).await.expect(200);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// Makes a user and logs it in.
    pub(crate) async fn user(&self, admin: &str, name: &str, role: &str) -> String {
        let body = json!({"username": name, "password": PASSWORD, "role": role});
        self.call("POST", "/api/users", admin, &body).await.expect(201);
        self.login(name).await
    }

    /// Makes a VM and waits for it; its id.
    pub(crate) async fn vm(&self, token: &str, name: &str) -> String {
        let body = json!({"name": name, "vcpus": 1, "memory_mib": 64});
        let answer = self.call_with("POST", "/api/vms", token, &[("prefer", "wait=30")], &body).await.expect(200);
        answer.json()["vm_id"].as_str().expect("an id").to_owned()
    }
}
