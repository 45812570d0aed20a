//! Access tokens that were tampered with: none is good, whatever was done to it, and none breaks
//! the server.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use serde_json::{Value, json};

use crate::harness::{Answer, SECRET, Server};

const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digits = (0..=chunk.len()).map(|at| char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]));
        text.extend(digits);
    }
    text
}

/// A token of these very texts, signed with `secret` by the HMAC of `algorithm`.
fn signed_by(secret: &str, algorithm: Algorithm, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).expect("signs");
    format!("{message}.{signature}")
}

/// With the server's own secret: only what the texts say can be wrong.
fn signed(header: &str, claims: &str) -> String {
    signed_by(SECRET, Algorithm::HS256, header, claims)
}

/// The claims of a token, which must be good.
fn claims_of(token: &str) -> Value {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&["limen"]);
    let key = DecodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::decode::<Value>(token, &key, &validation).expect("a good token").claims
}

/// The claims with one of them another, or without it.
fn with(claims: &Value, name: &str, value: Option<Value>) -> String {
    let mut claims = claims.clone();
    let map = claims.as_object_mut().expect("claims");
    match value {
        Some(value) => drop(map.insert(name.to_owned(), value)),
        None => drop(map.remove(name).expect("it was there")),
    }
    claims.to_string()
}

/// Headers that ask for something else than the one algorithm.
const HEADERS: [(&str, &str); 16] = [
    ("alg none", r#"{"typ":"JWT","alg":"none"}"#),
    ("alg None", r#"{"typ":"JWT","alg":"None"}"#),
    ("alg nOnE", r#"{"typ":"JWT","alg":"nOnE"}"#),
    ("alg empty", r#"{"typ":"JWT","alg":""}"#),
    ("no alg", r#"{"typ":"JWT"}"#),
    ("alg HS384 with another's signature", r#"{"typ":"JWT","alg":"HS384"}"#),
    ("alg RS256 with the secret as key", r#"{"typ":"JWT","alg":"RS256"}"#),
    ("alg ES256 with the secret as key", r#"{"typ":"JWT","alg":"ES256"}"#),
    ("kid that is a path", r#"{"typ":"JWT","alg":"HS256","kid":"../../../../dev/null"}"#),
    ("kid that is SQL", r#"{"typ":"JWT","alg":"HS256","kid":"x' UNION SELECT 'secret' --"}"#),
    ("jku", r#"{"typ":"JWT","alg":"HS256","jku":"http://127.0.0.1:1/keys"}"#),
    ("x5u", r#"{"typ":"JWT","alg":"HS256","x5u":"http://127.0.0.1:1/cert"}"#),
    ("jwk", r#"{"typ":"JWT","alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}"#),
    ("crit", r#"{"typ":"JWT","alg":"HS256","crit":["exp"]}"#),
    ("no typ", r#"{"alg":"HS256"}"#),
    ("another typ", r#"{"typ":"at+jwt","alg":"HS256"}"#),
];

#[track_caller]
fn refused(what: &str, answer: &Answer) {
    assert_eq!(answer.status, 401, "{what}: {answer:?}");
    assert_eq!(answer.code(), "unauthenticated", "{what}");
    let challenge = answer.header("www-authenticate");
    assert!(challenge.starts_with("Bearer ") && challenge.contains(r#"error="invalid_token""#), "{what}: {challenge}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_tampered_with_is_refused() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let gone = server.user(&admin, "gone", "admin").await;
    let other = server.user(&admin, "other", "user").await;
    let ended = server.login("other").await;
    server.send("POST", "/api/auth/logout", &ended, &[], Vec::new()).await.expect(204);
    let gone_id = claims_of(&gone)["sub"].as_str().expect("a user").to_owned();
    server.send("DELETE", &format!("/api/users/{gone_id}"), &admin, &[], Vec::new()).await.expect(204);

    let good = claims_of(&admin);
    let text = good.to_string();
    let now = good["iat"].as_i64().expect("a time");
    // What is not spoiled is good: every refusal below is for what it says.
    server.get("/api/auth/me", &signed(HEADER, &text)).await.expect(200);

    let claim = |what, name, value: Option<Value>| (what, signed(HEADER, &with(&good, name, value)));
    let raw = |what, from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        (what, signed(HEADER, &text.replace(from, to)))
    };
    let exp = format!("\"exp\":{}", good["exp"]);
    let parts: Vec<&str> = admin.split('.').collect();
    let other_parts: Vec<&str> = other.split('.').collect();
    let hs = |algorithm, name| {
        let header = format!(r#"{{"typ":"JWT","alg":"{name}"}}"#);
        signed_by(SECRET, algorithm, &header, &text)
    };
    let mut cases: Vec<(&str, String)> = vec![
        ("HS384, rightly signed", hs(Algorithm::HS384, "HS384")),
        ("HS512, rightly signed", hs(Algorithm::HS512, "HS512")),
        ("alg none without a signature", format!("{}.{}.", base64(HEADERS[0].1.as_bytes()), parts[1])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("five parts", format!("{admin}.a.b")),
        ("another's signature", format!("{}.{}.{}", parts[0], parts[1], other_parts[2])),
        ("another's claims", format!("{}.{}.{}", parts[0], other_parts[1], parts[2])),
        ("another secret", signed_by("another-0123456789abcdefghijklmnop", Algorithm::HS256, HEADER, &text)),
        ("an empty secret", signed_by("", Algorithm::HS256, HEADER, &text)),
        ("padding", format!("{admin}=")),
        ("a letter more", format!("{admin}A")),
        ("100 kB", "a".repeat(100_000)),
        ("100 kB, rightly signed", signed(HEADER, &with(&good, "sub", Some(json!("a".repeat(100_000)))))),
        ("dots alone", "..".to_owned()),
        ("no JSON", signed("typ", "exp")),
        ("a list of claims", signed(HEADER, "[]")),
        raw("exp as text", &exp, "\"exp\":\"9999999999\""),
        raw("exp as a fraction", &exp, "\"exp\":9999999999.5"),
        raw("exp negative", &exp, "\"exp\":-1"),
        raw("exp beyond every number", &exp, "\"exp\":1e400"),
        raw("exp twice", &exp, &format!("{exp},{exp}")),
        claim("exp missing", "exp", None),
        claim("exp null", "exp", Some(Value::Null)),
        claim("exp passed", "exp", Some(json!(now - 60))),
        claim("too long a life", "exp", Some(json!(now + 721 * 3600))),
        claim("nbf in the future", "nbf", Some(json!(now + 3600))),
        claim("nbf as text", "nbf", Some(json!("soon"))),
        claim("iat in the future", "iat", Some(json!(now + 3600))),
        claim("iat missing", "iat", None),
        claim("iat as text", "iat", Some(json!("0"))),
        claim("iat before all time", "iat", Some(json!(i64::MIN))),
        claim("sub missing", "sub", None),
        claim("sub of another user", "sub", Some(claims_of(&other)["sub"].clone())),
        claim("sub that is a name", "sub", Some(json!("admin"))),
        claim("jti missing", "jti", None),
        claim("jti of no session", "jti", Some(json!("01900000-0000-7000-8000-000000000000"))),
        claim("jti of another's session", "jti", Some(claims_of(&other)["jti"].clone())),
        claim("aud missing", "aud", None),
        claim("aud of another service", "aud", Some(json!("other"))),
        claim("aud as a list", "aud", Some(json!(["limen", "other"]))),
        claim("iss missing", "iss", None),
        claim("iss of another service", "iss", Some(json!("other"))),
        claim("typ missing", "typ", None),
        claim("typ of another kind of token", "typ", Some(json!("ticket"))),
        claim("a role", "role", Some(json!("admin"))),
        ("a deleted user's", gone),
        ("a session that has ended", ended),
        ("an API token that is none", format!("limen_{}", "0".repeat(64))),
    ];
    cases.extend(HEADERS.map(|(what, header)| (what, signed(header, &text))));
    for (what, token) in &cases {
        refused(what, &server.get("/api/auth/me", token).await);
    }
    assert!(cases.len() >= 40);

    // The same where a change is asked for, and where the token is not where it should be.
    let bearer = format!("Bearer {admin}");
    let two = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    refused("two headers", &server.send("GET", "/api/auth/me", "", &two, Vec::new()).await);
    let basic = format!("Basic {admin}");
    refused("another scheme", &server.send("GET", "/api/auth/me", "", &[("authorization", &basic)], Vec::new()).await);
    refused("no scheme", &server.send("GET", "/api/auth/me", "", &[("authorization", &admin)], Vec::new()).await);
    for name in ["access_token", "token", "authorization"] {
        let path = format!("/api/auth/me?{name}={admin}");
        refused("in the query", &server.send("GET", &path, "", &[], Vec::new()).await);
    }
    for header in ["x-user", "x-remote-user", "x-forwarded-user", "cookie", "x-access-token"] {
        refused(header, &server.send("GET", "/api/auth/me", "", &[(header, &admin)], Vec::new()).await);
    }
    let lower = format!("bearer {admin}");
    server.send("GET", "/api/auth/me", "", &[("authorization", &lower)], Vec::new()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_before_a_demotion_is_worth_no_more_than_its_user() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let second = server.user(&admin, "second", "admin").await;
    server.get("/api/users", &second).await.expect(200);
    let id = claims_of(&second)["sub"].as_str().expect("a user").to_owned();
    let path = format!("/api/users/{id}");
    server.call("PATCH", &path, &admin, &json!({"role": "viewer"})).await.expect(200);
    server.get("/api/users", &second).await.expect(403);
    server.call("PATCH", &path, &admin, &json!({"password": "correct horse 2"})).await.expect(200);
    refused("a session from before a new password", &server.get("/api/vms", &second).await);
}
