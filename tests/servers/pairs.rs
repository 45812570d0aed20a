//! A thousand writes, each followed by a read of what it wrote, request by request at another server.

use std::time::Instant;

use hyper::Method;
use limen_support::http::Client;
use limen_support::server::{ADMIN, ADMIN_PASSWORD};
use limen_support::site::text;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Two, path_of};

const CLIENTS: usize = 4;
const ROUNDS: usize = 32;

/// A client that sends on the number of the event that the last answer showed.
struct Follower {
    client: Client,
    event: Option<String>,
    pairs: usize,
}

impl Follower {
    async fn ask(&mut self, method: Method, path: &str, body: Option<Value>, status: u16) -> Value {
        let client = match &self.event {
            Some(number) => self.client.with_header("X-Limen-Event", number),
            None => self.client.clone(),
        };
        let answer = client.request(method, path, body.as_ref()).await.expect(status);
        self.event = answer.header("x-limen-event").map(str::to_owned).or(self.event.take());
        answer.json()
    }

    /// A change that must succeed, and what a read right behind it answers.
    async fn pair(&mut self, change: (Method, &str, Option<Value>), read: &str, then: u16) -> Value {
        let (method, path, body) = change;
        self.ask(method, path, body, 200).await;
        self.pairs += 1;
        self.ask(Method::GET, read, None, then).await
    }

    async fn round(&mut self, name: &str) {
        let create = json!({ "name": name, "vcpus": 1, "memory_mib": 64 });
        let made = self.ask(Method::POST, "/api/vms", Some(create), 200).await;
        let vm = path_of("vms", &made, "vm_id");
        let read = self.ask(Method::GET, &vm, None, 200).await;
        assert_eq!((text(&read, "name"), text(&read["status"], "state")), (name.to_owned(), "shut_off".to_owned()));
        self.pairs += 1;

        let power = format!("{vm}/power");
        for (action, state) in [("start", "running"), ("pause", "paused"), ("power_off", "shut_off")] {
            let read = self.pair((Method::POST, &power, Some(json!({ "action": action }))), &vm, 200).await;
            assert_eq!(read["status"]["state"], state, "{read}");
        }
        let other = format!("{name}-b");
        let read = self.pair((Method::PATCH, &vm, Some(json!({ "name": other }))), &vm, 200).await;
        assert_eq!(read["name"], *other, "{read}");
        self.pair((Method::DELETE, &vm, None), &vm, 404).await;

        // Who is new needs no number: nobody knows of one at a login.
        let fresh = self.client.without_token().login(ADMIN, ADMIN_PASSWORD).await;
        fresh.get("/api/auth/me").await.expect(200);
        let made = fresh.post("/api/tokens", &json!({ "name": name })).await.expect(201);
        let (token, number) = (made.json(), made.header("x-limen-event").expect("a number"));
        self.client.without_token().with_token(&text(&token, "token")).get("/api/auth/me").await.expect(200);
        fresh.with_header("X-Limen-Event", number).delete(&path_of("tokens", &token, "id")).await.expect(204);
        self.pairs += 2;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pairs_over_both_servers_read_what_they_wrote() {
    let two = Two::start(|options| options.env("HYPERVISOR_URI", "sim:///"));
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = two.nginx.client().login(ADMIN, ADMIN_PASSWORD).await;
        clients.spawn(async move {
            let mut follower = Follower { client: client.waiting(30), event: None, pairs: 0 };
            for round in 0..ROUNDS {
                follower.round(&format!("c{number}-{round}")).await;
            }
            follower.pairs
        });
    }
    let pairs: usize = clients.join_all().await.into_iter().sum();
    assert!(pairs >= 1000, "{pairs} pairs");
    let served = two.nginx.served();
    let refused: Vec<_> = served.iter().filter(|line| line.starts_with("401") || line.starts_with('5')).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let shares = [0, 1].map(|place: usize| {
        let address = format!("127.0.0.1:{}", two.servers[place].port());
        served.iter().filter(|line| line.ends_with(&address)).count()
    });
    eprintln!("{pairs} pairs in {:?}; the servers answered {shares:?} requests", begun.elapsed());
    assert!(shares.iter().all(|share| share * 5 > served.len() * 2), "not request by request: {shares:?}");
}
