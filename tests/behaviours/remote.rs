//! A server, as a program of Rust calls it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use limen_core::model::{ConsoleKind, CreateVm, EventObject, OperationState, PageRequest, PowerAction, UpdateVm};
use limen_core::remote::Remote;
use limen_core::service::{Told, VmQuery};
use limen_core::{ErrorKind, Result, Secret};
use limen_support::server::Server;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http::server;
use super::library::refused;
use super::operations::{Args, operate, shown};
use super::{ADMIN, Door, Refused};

/// A server on a simulated host, and a client in a session of its admin.
pub(crate) struct Served {
    _server: Server,
    remote: Remote,
}

impl Served {
    pub(crate) async fn open() -> Self {
        let server = server();
        let remote = Remote::connect(&format!("http://127.0.0.1:{}", server.port())).expect("an address");
        let remote = remote.login(ADMIN.0, &Secret::new(ADMIN.1)).await.expect("a session");
        Self { _server: server, remote }
    }

    async fn ask(&self, operation: &str, mut args: Args) -> Result<Value> {
        let mut remote = self.remote.clone();
        match operation {
            "health" => return shown(&remote.health().await?),
            "ping_store" => return shown(&remote.ping_store().await?),
            "refusals" => return shown(&remote.refusals().await?),
            "login" => {
                let (name, password): (String, Secret) = (args.take("name")?, args.take("password")?);
                remote.login(&name, &password).await?;
                return Ok(json!({}));
            }
            _ => {}
        }
        if let Some(key) = args.take::<Option<String>>("idempotency_key")? {
            remote = remote.with_idempotency_key(key);
        }
        operate!(remote.operation[](args))
    }
}

impl Door for Served {
    async fn call(&mut self, operation: &str, args: Map<String, Value>) -> std::result::Result<Value, Refused> {
        self.ask(operation, Args(args)).await.map_err(|error| refused(&error))
    }
}

/// A request that never gets through: nothing was done, or it is not known.
async fn deaf_server(answer: bool) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            _ = stream.read(&mut request).await;
            if answer {
                let text = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
                _ = stream.write_all(text.as_bytes()).await;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_consoles_of_a_server_are_streams() {
    let Served { _server, remote } = Served::open().await;
    let mut events = remote.watch_events(remote.event().await.expect("a number")).await.expect("events");
    let asked =
        remote.create_vm(CreateVm { start: true, ..CreateVm::new("web-1", 1, 64) }).await.expect("an operation");
    let soon = Duration::from_secs(30);
    let done = remote.wait_operation(asked.id, soon).await.expect("the operation");
    assert_eq!(done.state, OperationState::Succeeded, "{done:?}");
    let vm = done.vm_id.expect("its VM");

    let mut kinds = BTreeSet::new();
    loop {
        let told = tokio::time::timeout(soon, events.next()).await.expect("in time").expect("an event");
        let Told::Event(event) = told else { continue };
        assert_eq!(event.number, events.position());
        kinds.insert(event.kind.as_str());
        match &event.object {
            Some(EventObject::Operation(operation)) if operation.state.is_finished() => {
                assert_eq!((operation.id, operation.finished_at), (done.id, done.finished_at));
                break;
            }
            Some(EventObject::Vm(object)) => assert_eq!((event.id, &*object.name), (vm.0, "web-1")),
            Some(EventObject::Status(object)) => assert_eq!((event.id, &*object.host), (vm.0, "local")),
            _ => {}
        }
    }
    assert!(kinds.is_superset(&["vm", "status", "operation"].into()), "{kinds:?}");
    remote.wait_for_event(events.position(), soon).await.expect("it is shown");
    let shown = remote.wait_for_event(events.position() + 1000, Duration::from_millis(200)).await;
    assert_eq!(shown.expect_err("nobody did that much").kind(), ErrorKind::Unavailable);

    let mut console = remote.open_console(vm, ConsoleKind::Serial).await.expect("a console");
    console.write_all(b"echo").await.expect("it takes bytes");
    let mut heard = Vec::new();
    while !heard.ends_with(b"echo") {
        assert_ne!(console.read_buf(&mut heard).await.expect("bytes"), 0, "{heard:?}");
    }
    assert!(heard.starts_with(b"Hello from "), "{heard:?}");
    let off = remote.change_power(vm, PowerAction::PowerOff, None).await.expect("an operation");
    while console.read_buf(&mut heard).await.expect("a good end") > 0 {}

    remote.wait_operation(off.id, soon).await.expect("the operation");

    // What a list and one VM tell is the same, with the versions that a change may expect.
    let view = remote.get_vm(vm).await.expect("the VM");
    let listed = remote.list_vms(&VmQuery::default(), PageRequest::default()).await.expect("a page");
    let [one] = &*listed.vms else { panic!("{listed:?}") };
    assert_eq!((one.vm.id, &one.vm.name, &one.vm.spec), (view.vm.id, &view.vm.name, &view.vm.spec));
    assert!(view.vm.version > 0 && view.etag == format!("{}.{}", view.vm.version, view.vm.status.revision));
    let change = |name: &str| UpdateVm { name: Some(name.to_owned()), ..UpdateVm::default() };
    let late = remote.update_vm(vm, change("web-2"), Some(view.vm.version + 7)).await;
    assert_eq!(late.expect_err("another version").kind(), ErrorKind::PreconditionFailed);
    remote.update_vm(vm, change("web-2"), Some(view.vm.version)).await.expect("an operation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_on_the_way_is_told_as_it_is() {
    for url in ["", "limen.example", "ftp://a", "http://a/b", "http://a?b", "http://u:p@a", "http://a#b"] {
        let error = Remote::connect(url).expect_err(url);
        assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("url")), "{url}");
    }
    let missing = Remote::connect_trusting("https://a", Path::new("/nonexistent")).expect_err("there is no file");
    assert_eq!((missing.kind(), missing.field()), (ErrorKind::Invalid, Some("ca_file")));

    let nobody = Remote::connect("http://127.0.0.1:9").expect("an address").with_token(Secret::new("canary"));
    assert!(!format!("{nobody:?}").contains("canary"));
    let create = || CreateVm::new("web-1", 1, 64);
    assert_eq!(nobody.create_vm(create()).await.expect_err("nobody").kind(), ErrorKind::Unavailable);
    // It got the request and no more is known; a read may be asked again.
    let deaf = Remote::connect(&deaf_server(false).await).expect("an address");
    assert_eq!(deaf.create_vm(create()).await.expect_err("no answer").kind(), ErrorKind::Interrupted);
    assert_eq!(deaf.get_me().await.expect_err("no answer").kind(), ErrorKind::Unavailable);
    let other = Remote::connect(&deaf_server(true).await).expect("an address");
    assert_eq!(other.health().await.expect_err("no LIMEN").kind(), ErrorKind::Unavailable);
    assert_eq!(other.get_me().await.expect_err("no JSON").kind(), ErrorKind::Internal);

    let Served { _server, remote } = Served::open().await;
    let strange = remote.with_token(Secret::new("nobody's"));
    assert_eq!(strange.get_me().await.expect_err("no such token").kind(), ErrorKind::Unauthenticated);
    assert_eq!(remote.call("add_image", Map::new()).await.expect_err("no route").kind(), ErrorKind::Unsupported);
    assert_eq!(remote.call("fly", Map::new()).await.expect_err("no method").kind(), ErrorKind::Unsupported);
    let error = remote.call("get_vm", Map::new()).await.expect_err("no id");
    assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("id")));
    remote.logout().await.expect("an end");
    assert_eq!(remote.get_me().await.expect_err("the session ended").kind(), ErrorKind::Unauthenticated);
}
