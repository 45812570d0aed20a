//! Hostile text in every place of every request that takes text, against real back ends: it is
//! refused in a problem document, or it is kept as the text that it is and nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use hyper::Method;
use limen_support::http::{Client, Response};
use limen_support::server::Server;
use limen_support::site::{Database, Site, bare, create, text};
use serde_json::{Map, Value, json};

/// In each text that has room for it: where this word is found, the text was taken for something else.
const MARK: &str = "zq7x";

/// Texts that mean something to XML, and to what is made of it.
const XML: [&str; 30] = [
    "zq7x</name><devices><disk type='file'/></devices><name>",
    "zq7x</description><title>INJECTED</title><description>",
    "zq7x'/><interface type='network'/><x y='",
    "zq7x\"/><graphics type='vnc' listen='0.0.0.0'/><x y=\"",
    "zq7x]]><hostdev/>",
    "<![CDATA[zq7x]]>",
    "<!-- zq7x -->",
    "zq7x-->",
    "<?zq7x version='1.0'?>",
    "<!DOCTYPE domain [<!ENTITY a 'zq7x'>]>",
    "<!DOCTYPE d SYSTEM 'file:///etc/passwd'>zq7x",
    "&a;zq7x",
    "&#60;zq7x&#62;",
    "&#x3c;zq7x&#x3e;",
    "&lt;zq7x&gt;",
    "&amp;zq7x;",
    "&",
    "<",
    ">zq7x",
    "\"zq7x\"",
    "'zq7x'",
    "zq7x\nemulator='/bin/sh'",
    "zq7x\r\n\tx",
    "zq7x\u{2028}x\u{2029}",
    "zq7x\u{85}x",
    "zq7x\u{0}x",
    "zq7x\u{1}\u{1b}[31m",
    "zq7x\u{fffe}\u{ffff}",
    "<limen:vm xmlns:limen='urn:limen:1' instance='zq7x' op='zq7x'/>",
    "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:commandline zq7x='",
];

/// Texts that mean something to a path, and to an option of a program.
const PATHS: [&str; 25] = [
    "../../etc/passwd",
    "../../../../../../../../etc/shadow",
    "..",
    ".",
    "/etc/passwd",
    "/dev/sda",
    "//etc//passwd",
    "%2e%2e%2fzq7x",
    "..%2fzq7x",
    "..%252fzq7x",
    "..%c0%afzq7x",
    "..\\..\\zq7x",
    "C:\\zq7x",
    "\\\\server\\zq7x",
    "file:///etc/passwd",
    "json:{\"file.filename\":\"/etc/passwd\"}",
    "nbd:127.0.0.1:1:exportname=zq7x",
    "zq7x.qcow2,backing_file=/etc/passwd",
    "~root/zq7x",
    "zq7x\u{2024}\u{2024}/x",
    "--help",
    "-o/tmp/zq7x",
    "@/etc/passwd",
    "zq7x/../../x",
    "\u{ff0e}\u{ff0e}\u{2215}zq7x",
];

/// Texts that mean something to a database, a shell or a format.
const CODE: [&str; 15] = [
    "zq7x' OR '1'='1",
    "zq7x' OR 1=1 --",
    "zq7x'; DROP TABLE vms; --",
    "zq7x') UNION SELECT id, password_hash FROM users --",
    "zq7x\\'; SELECT pg_sleep(20); --",
    "$1 zq7x $2",
    "zq7x%' ESCAPE '%",
    "%",
    "_",
    "`touch zq7x`",
    "$(touch zq7x)",
    "zq7x; touch zq7x",
    "zq7x | touch zq7x &",
    "{zq7x} %s%n%x ${jndi:ldap://127.0.0.1:1/zq7x}",
    "zq7x\u{202e}txt.exe",
];

fn hostile() -> impl Iterator<Item = &'static str> {
    XML.into_iter().chain(PATHS).chain(CODE)
}

/// The document that tells every place.
fn document() -> Value {
    serde_json::from_str(include_str!("../docs/openapi.json")).expect("a document")
}

/// A schema that is said by name.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(first) = schema["allOf"].get(0) {
        return resolved(document, first);
    }
    match schema["$ref"].as_str().and_then(|name| name.strip_prefix("#")) {
        Some(pointer) => document.pointer(pointer).expect("what is referred to is there"),
        None => schema,
    }
}

/// Values of this schema, in each of which one text is `hostile`: with the name of its place.
fn values(document: &Value, schema: &Value, hostile: &str) -> Vec<(String, Value)> {
    let schema = resolved(document, schema);
    match schema["type"].as_str() {
        Some("string") => vec![(String::new(), json!(hostile))],
        Some("array") => {
            let items = values(document, &schema["items"], hostile).into_iter();
            items.map(|(place, value)| (format!("[]{place}"), json!([value]))).collect()
        }
        Some("object") => {
            let mut all = Vec::new();
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                let inner = values(document, schema, hostile).into_iter();
                all.extend(inner.map(|(place, value)| (format!(".{name}{place}"), json!({ name: value }))));
            }
            if schema["additionalProperties"].is_object() {
                all.push((".{key}".to_owned(), json!({ hostile: "value" })));
                all.push((".{value}".to_owned(), json!({ "key": hostile })));
            }
            all
        }
        _ => Vec::new(),
    }
}

/// One operation of the document.
struct Operation {
    id: String,
    method: Method,
    path: String,
    definition: Value,
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, definition) in methods.as_object().expect("methods") {
            let method = method.to_uppercase().parse().expect("a method");
            let definition = definition.clone();
            all.push(Operation { id: text(&definition, "operationId"), method, path: path.clone(), definition });
        }
    }
    all
}

/// What the requests are about.
struct Stage {
    admin: Client,
    vm: String,
    user: String,
    count: std::cell::Cell<u32>,
}

impl Stage {
    fn name(&self) -> String {
        self.count.set(self.count.get() + 1);
        format!("n{}", self.count.get())
    }

    /// A body that is good but for what is put into it.
    fn body(&self, operation: &str) -> Value {
        match operation {
            "login" => json!({ "username": "nobody", "password": "a wrong horse 1" }),
            "change_password" => json!({ "current_password": "a wrong horse 1", "new_password": "a wrong horse 2" }),
            "create_user" => json!({ "username": self.name(), "password": "a right horse 1", "role": "viewer" }),
            "create_token" => json!({ "name": self.name() }),
            "create_vm" => bare(&self.name()),
            "update_user" | "update_vm" => json!({}),
            "create_ticket" => json!({ "kind": "serial" }),
            "change_power" => json!({ "action": "start" }),
            other => panic!("{other}: what is a good body of it? Teach this test."),
        }
    }

    /// A thing that the operation may be about.
    fn target(&self, path: &str) -> &str {
        if path.starts_with("/api/users/") { &self.user } else { &self.vm }
    }
}

/// Every byte that is not a letter or a digit, as a client escapes it.
fn percent(value: &str) -> String {
    value.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("text");
        }
        escaped
    })
}

/// How often each element is in a definition.
fn elements(xml: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for after in xml.split('<').skip(1).filter(|after| !after.starts_with(['/', '?', '!'])) {
        let end = after.find(|c: char| c.is_whitespace() || c == '>' || c == '/').unwrap_or(after.len());
        *all.entry(after[..end].to_owned()).or_default() += 1;
    }
    all
}

/// Names, lengths and times of all that is below, but for what the test's own processes write.
fn tree(directory: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if metadata.is_dir() {
            all.extend(tree(&path));
        } else {
            all.insert(format!("{} {} {:?}", path.display(), metadata.len(), metadata.modified().ok()));
        }
    }
    all
}

/// What every answer to a hostile text must be: no failure of the server, and its own reason.
fn judge(what: &str, answer: &Response) {
    assert!(answer.status < 500 || answer.status == 507, "{what}: {answer:?}");
    if answer.status >= 400 {
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}: {answer:?}");
        assert!(answer.json()["code"].is_string(), "{what}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_text_in_every_place_is_refused_or_stays_text() {
    // Hundreds of VMs are made, more than a small machine has memory for.
    let site = Site::start_with(Database::Postgres, Server::options().env("MEMORY_OVERCOMMIT", "none"));
    // The database says every statement, and no value that is bound to it.
    for setting in ["log_statement = 'all'", "log_parameter_max_length = 0", "log_parameter_max_length_on_error = 0"] {
        site.sql(&format!("ALTER SYSTEM SET {setting}"));
    }
    site.sql("SELECT pg_reload_conf()");
    let admin = site.server.admin().await;
    let vm = create(&admin, &bare("target")).await;
    let user = json!({ "username": "target", "password": "a right horse 1", "role": "viewer" });
    let user = text(&admin.post("/api/users", &user).await.expect(201).json(), "id");
    let stage = Stage { admin: admin.waiting(50), vm, user, count: 0.into() };
    let home = site.server.data_dir().parent().expect("a directory").to_owned();
    std::fs::write(home.join("beside"), MARK).expect("written");
    let outside = || {
        let mut all = tree(Path::new("/etc"));
        all.extend(std::fs::read_dir(&home).expect("read").flatten().map(|entry| format!("{:?}", entry.path())));
        all
    };
    let before = outside();

    let document = document();
    let (mut places, mut requests) = (BTreeSet::new(), 0);
    let mut kept: Vec<(String, Map<String, Value>)> = Vec::new();
    for operation in operations(&document) {
        let definition = &operation.definition;
        let path_of = |id: &str| operation.path.replace("{id}", id);
        let target = path_of(stage.target(&operation.path));
        for hostile in hostile() {
            // In the body.
            let schema = &definition["requestBody"]["content"]["application/json"]["schema"];
            assert_eq!(
                schema.is_null(),
                definition["requestBody"].is_null(),
                "{}: a body of which kind?",
                operation.id
            );
            for (place, value) in values(&document, schema, hostile) {
                let mut body = stage.body(&operation.id);
                let given = value.as_object().expect("an object").clone();
                body.as_object_mut().expect("an object").extend(given.clone());
                let what = format!("{} {place} {hostile:?}", operation.id);
                let answer = stage.admin.request(operation.method.clone(), &target, Some(&body)).await;
                judge(&what, &answer);
                assert_ne!(answer.status, 507, "{what}: {answer:?}");
                if operation.id == "create_vm" && answer.status < 300 {
                    kept.push((text(&answer.json(), "vm_id"), given));
                } else if operation.id == "update_vm" && answer.status < 300 {
                    let shown = admin.get(&target).await.expect(200).json();
                    given.iter().for_each(|(name, value)| assert_eq!(&shown[name], value, "{what}"));
                }
                places.insert(format!("{} {place}", operation.id));
                requests += 1;
            }
            // In the path, the query and the headers.
            for parameter in definition["parameters"].as_array().into_iter().flatten() {
                let (name, within) = (text(parameter, "name"), text(parameter, "in"));
                let what = format!("{} {within} {name} {hostile:?}", operation.id);
                let (path, client) = match within.as_str() {
                    "path" => (path_of(&percent(hostile)), stage.admin.clone()),
                    "query" => (format!("{target}?{name}={}", percent(hostile)), stage.admin.clone()),
                    _ if hostile.chars().all(|c| (' '..='~').contains(&c)) => {
                        // An absent thing: what is asked for goes no further.
                        let absent = path_of("01900000-0000-7000-8000-000000000000");
                        (absent, admin.with_header(&name, hostile))
                    }
                    _ => continue,
                };
                let body = definition["requestBody"].is_object().then(|| stage.body(&operation.id));
                let answer = client.request(operation.method.clone(), &path, body.as_ref()).await;
                judge(&what, &answer);
                if within == "path" {
                    assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
                }
                if let Some(items) = answer.json()["items"].as_array().filter(|_| within == "query") {
                    assert!(items.is_empty(), "{what} is in the way of nothing: {answer:?}");
                }
                places.insert(format!("{} {within} {name}", operation.id));
                requests += 1;
            }
        }
    }
    eprintln!("{requests} requests, hostile text in {} places; {} VMs made with it", places.len(), kept.len());
    assert!(places.len() >= 50 && kept.len() >= 50, "{places:?}");

    // What was kept is that very text, in a definition that has the elements of any other.
    let plain = create(&admin, &bare("plain")).await;
    let wanted = elements(&site.libvirt.virsh(&["dumpxml", &plain]).expect_success());
    assert_eq!(wanted["devices"], 1, "{wanted:?}");
    for (id, given) in &kept {
        let shown = admin.get(&format!("/api/vms/{id}")).await.expect(200).json();
        given.iter().for_each(|(name, value)| assert_eq!(&shown[name], value, "{id}"));
        let xml = site.libvirt.virsh(&["dumpxml", id]).expect_success();
        let mut found = elements(&xml);
        // A description, labels: what a VM without them has no element for.
        for name in ["description", "limen:label", "limen:labels"] {
            let count = found.remove(name).unwrap_or_default();
            assert!(count <= 1, "{name}: {xml}");
        }
        let mut wanted = wanted.clone();
        ["description", "limen:label", "limen:labels"].iter().for_each(|name| _ = wanted.remove(*name));
        assert_eq!(found, wanted, "{given:?}: {xml}");
    }
    // Nothing was written beside the installation, and no value got into a statement.
    assert_eq!(outside(), before);
    let log = Path::new(&site.sql("SHOW data_directory")[0]).with_file_name("log");
    let log = String::from_utf8_lossy(&std::fs::read(log).expect("the database's log")).into_owned();
    assert!(log.contains("$1"), "the statements are in the log");
    let found: Vec<&str> = log.lines().filter(|line| line.contains(MARK)).take(5).collect();
    assert!(found.is_empty(), "a value is in a statement: {found:#?}");

    for (id, _) in &kept {
        limen_support::site::delete(&admin, id).await;
    }
    site.wait_until_in_order(Duration::from_secs(10), &[]);
    let log = site.server.log();
    assert!(!log.contains("panicked") && !log.contains("status=500"), "no panic and no 500");
}
