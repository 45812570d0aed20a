//! Two servers on one PostgreSQL behind nginx, with the configuration that `docs/several-servers.md`
//! shows: what a client holds works at both, and one goes on where the other dies.

mod deaths;
mod pairs;
mod revoked;

use std::time::{Duration, Instant};

use limen_support::http::Client;
use limen_support::nginx::{Nginx, blocks_of};
use limen_support::postgres::PrivatePostgres;
use limen_support::process::free_port;
use limen_support::server::{Options, Server};
use serde_json::Value;

/// Random enough for a server that refuses placeholders.
const JWT_SECRET: &str = "a67b1c43b2ede4e2518e913967aa82a79478f69c689f5df1cb3b9b818f64e670";

/// Two servers, nginx before them, and the database under them.
struct Two {
    nginx: Nginx,
    servers: [Server; 2],
    /// The URL of the database.
    database: String,
    _postgres: PrivatePostgres,
}

impl Two {
    /// Starts them; each has the settings that `set` adds.
    fn start(set: impl Fn(Options) -> Options) -> Self {
        let postgres = PrivatePostgres::start();
        let database = postgres.create_database();
        let options = || Server::options().env("DATABASE_URL", &database).env("JWT_SECRET", JWT_SECRET);
        let servers = [set(options()).start(), set(options()).start()];
        let port = free_port();
        let [first, second] = [0, 1].map(|index: usize| format!("127.0.0.1:{}", servers[index].port()));
        let blocks = blocks_of(
            "docs/several-servers.md",
            &[
                ("192.0.2.11:18443", &first),
                ("192.0.2.12:18443", &second),
                ("listen 443 ssl;", &format!("listen 127.0.0.1:{port};")),
                ("    ssl_certificate     /etc/ssl/limen.pem;\n", ""),
                ("    ssl_certificate_key /etc/ssl/limen.key;\n", ""),
            ],
        );
        Self { nginx: Nginx::start(port, &blocks), servers, database, _postgres: postgres }
    }

    /// The server that owns the host, as this one tells: by its place.
    async fn owner(&self, client: &Client) -> Option<usize> {
        let hosts = client.get("/api/hosts").await.expect(200).json();
        let owner = hosts["items"][0]["owner"].as_str()?.to_owned();
        let place = self.servers.iter().position(|server| server.log().contains(&owner));
        Some(place.unwrap_or_else(|| panic!("{owner} is none of them")))
    }

    /// The same, once it is told: a server that has just begun has not heard yet.
    async fn its_owner(&self, client: &Client) -> usize {
        let begun = Instant::now();
        loop {
            if let Some(place) = self.owner(client).await {
                return place;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "nobody owns the host");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the server at `place` owns the host, as it tells itself; answers how long that took.
    async fn owned_by(&self, place: usize, client: &Client, deadline: Duration) -> Duration {
        let begun = Instant::now();
        while self.owner(client).await != Some(place) {
            assert!(begun.elapsed() < deadline, "not taken over within {deadline:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    }
}

/// The path of a thing that an answer is.
fn path_of(noun: &str, value: &Value, key: &str) -> String {
    format!("/api/{noun}/{}", limen_support::site::text(value, key))
}
