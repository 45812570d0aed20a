//! Consoles over WebSockets, by the real program: who gets one, what goes through it, when it ends.

use std::time::{Duration, Instant};

use limen_support::http::{Client, Response};
use limen_support::server::Server;
use limen_support::site::{self, bare, create, text};
use limen_support::websocket::{Closed, WebSocket};
use serde_json::{Value, json};

mod endings;
mod frames;
mod guests;
mod tickets;

/// Within this a console ends once there is a reason.
const SOON: Duration = Duration::from_secs(1);

/// A server on the simulator, and its admin.
async fn simulated() -> (Server, Client) {
    let server = Server::options().env("HYPERVISOR_URI", "sim:///?vms=0").start();
    let admin = server.admin().await;
    (server, admin)
}

/// A VM that runs.
async fn running(client: &Client, name: &str) -> String {
    let id = create(client, &bare(name)).await;
    site::power(client, &id, "start").await.expect(200);
    id
}

/// Makes a user and logs it in.
async fn user(server: &Server, admin: &Client, name: &str, role: &str) -> (Client, String) {
    let password = "a password that is long";
    let body = json!({ "username": name, "password": password, "role": role });
    let id = text(&admin.post("/api/users", &body).await.expect(201).json(), "id");
    (server.client().login(name, password).await, id)
}

/// A console by a ticket, with a client that has nothing but that.
async fn open(server: &Server, client: &Client, vm: &str, kind: &str) -> WebSocket {
    let path = client.ticket(vm, kind).await;
    server.client().websocket(&path).await.unwrap_or_else(|answer| panic!("refused: {answer:?}"))
}

/// The problem of a WebSocket that was refused before it was one.
async fn refused(client: &Client, path: &str, status: u16, code: &str) -> Response {
    let answer = client.websocket(path).await.expect_err("refused");
    let problem = answer.json();
    assert_eq!((answer.status, text(&problem, "code").as_str()), (status, code), "{path}: {problem}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    answer
}

/// How a console ended, which it must soon after `since`.
async fn ends_soon(socket: &mut WebSocket, since: Instant, why: &str) -> Closed {
    let closed = socket.closed().await;
    let took = since.elapsed();
    println!("{why}: {closed:?} after {took:?}");
    assert!(took < SOON, "{why}: {closed:?} only after {took:?}");
    closed
}

/// The audit's records of consoles of a VM, oldest first.
async fn audit(admin: &Client, vm: &str) -> Vec<Value> {
    let path = format!("/api/audit?limit=1000&action=open_console&resource=vm:{vm}");
    let mut items = admin.get(&path).await.expect(200).json()["items"].as_array().expect("items").clone();
    items.reverse();
    items
}
