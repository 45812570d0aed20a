//! Access tokens: JWTs, HS256 alone, and nothing in them but which session they are. (API tokens
//! are no JWTs; the library knows them.)
//!
//! A token that verified once is remembered until it expires, so that the next request with it
//! costs one look-up. What the session may do is asked of [`Limen::authenticate`] every time: a
//! role change, a logout and a deleted user act at once.
//!
//! [`Limen::authenticate`]: limen_core::Limen::authenticate

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use limen_core::model::{SessionId, SessionRecord, UserId};
use limen_core::{Error, Secret};
use poem::http::{HeaderMap, header};
use serde::{Deserialize, Serialize};

use crate::config::LONGEST_EXPIRY_HOURS;
use crate::error::{Problem, Result};

/// Who issues and who reads the tokens.
const LIMEN: &str = "limen";
/// How far clocks may differ, in seconds.
const LEEWAY_SECONDS: i64 = 5;
/// What kind of token it is: one for another use is none to log in with.
const SESSION: &str = "session";
/// The longest life of a token, in seconds.
const LONGEST_LIFE: i64 = LONGEST_EXPIRY_HOURS as i64 * 3600;
/// Ours have about 300 bytes.
const LONGEST_TOKEN: usize = 2048;
/// How many verified tokens are remembered; beyond that all are forgotten and verified anew.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Verified {
    session: SessionId,
    user: UserId,
    expires_at: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    aud: String,
    sub: UserId,
    exp: i64,
    iat: i64,
    jti: SessionId,
    typ: String,
}

/// Signs and verifies.
pub(crate) struct Tokens {
    signing: EncodingKey,
    /// The current key, then the previous one where there is one.
    verifying: Vec<DecodingKey>,
    validation: Validation,
    verified: RwLock<HashMap<Box<str>, Verified>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    pub(crate) fn new(secret: &Secret) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS.unsigned_abs();
        validation.validate_nbf = true;
        validation.set_issuer(&[LIMEN]);
        validation.set_audience(&[LIMEN]);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
        Self {
            signing: EncodingKey::from_secret(secret.expose().as_bytes()),
            verifying: vec![DecodingKey::from_secret(secret.expose().as_bytes())],
            validation,
            verified: RwLock::default(),
        }
    }

    /// Takes what `previous` signed too.
    pub(crate) fn also_verify(&mut self, previous: &Secret) {
        self.verifying.push(DecodingKey::from_secret(previous.expose().as_bytes()));
    }

    /// The token of `session`, and how many seconds it is good for.
    pub(crate) fn issue(&self, session: &SessionRecord) -> Result<(String, i64)> {
        let (iat, exp) = (session.created_at.unix_timestamp(), session.expires_at.unix_timestamp());
        let claims = Claims {
            iss: LIMEN.to_owned(),
            aud: LIMEN.to_owned(),
            sub: session.user,
            exp,
            iat,
            jti: session.id,
            typ: SESSION.to_owned(),
        };
        let token =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing).map_err(Error::internal)?;
        Ok((token, exp - iat))
    }

    /// The session and user that `token` is of.
    pub(crate) fn verify(&self, token: &str) -> Result<(SessionId, UserId)> {
        let known = self.verified.read().unwrap_or_else(PoisonError::into_inner).get(token).copied();
        if let Some(known) = known {
            return if known.expires_at.saturating_add(LEEWAY_SECONDS) > now() {
                Ok((known.session, known.user))
            } else {
                Err(refused())
            };
        }
        let verified = self.verify_anew(token)?;
        let mut remembered = self.verified.write().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(token.into(), verified);
        Ok((verified.session, verified.user))
    }

    fn verify_anew(&self, token: &str) -> Result<Verified> {
        if token.len() > LONGEST_TOKEN {
            return Err(refused());
        }
        let decode = |key| jsonwebtoken::decode::<Claims>(token, key, &self.validation).ok();
        let data = self.verifying.iter().find_map(decode).ok_or_else(refused)?;
        if data.header != Header::new(Algorithm::HS256) {
            return Err(refused());
        }
        let Claims { exp, iat, sub, jti, typ, .. } = data.claims;
        // Numbers that no clock shows must not overflow.
        let life = exp.checked_sub(iat).unwrap_or(i64::MAX);
        if typ != SESSION || life > LONGEST_LIFE || iat > now() + LEEWAY_SECONDS {
            return Err(refused());
        }
        Ok(Verified { session: jti, user: sub, expires_at: exp })
    }
}

/// The token of a request: exactly one `Authorization` header, scheme `Bearer` in any case.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(|| Problem::unauthenticated("A token is needed: Authorization: Bearer …"))?;
    if values.next().is_some() {
        return Err(refused());
    }
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(refused)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(refused()) }
}

/// One sentence for every reason: which one it was helps nobody but an attacker.
pub(crate) fn refused() -> Problem {
    Problem::unauthenticated("The token is not valid, or no longer good; log in again.")
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "d41d8cd98f00b204e9800998ecf8427e";

    fn tokens() -> Tokens {
        Tokens::new(&Secret::new(SECRET))
    }

    fn claims() -> Value {
        json!({
            "iss": "limen", "aud": "limen", "sub": UserId::generate(), "jti": SessionId::generate(),
            "iat": now(), "exp": now() + 3600, "typ": "session",
        })
    }

    fn sign(header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(header, claims, &key).expect("signs")
    }

    #[test]
    fn a_token_is_good_until_it_expires_also_once_it_is_remembered() {
        let tokens = tokens();
        let mut value = claims();
        let token = sign(&Header::new(Algorithm::HS256), &value);
        assert!(tokens.verify(&token).is_ok());
        assert!(tokens.verify(&token).is_ok(), "remembered");
        value["exp"] = json!(now() - 4);
        let short = sign(&Header::new(Algorithm::HS256), &value);
        assert!(tokens.verify(&short).is_ok());
        std::thread::sleep(std::time::Duration::from_millis(2100));
        assert!(tokens.verify(&short).is_err(), "remembered and expired");
    }

    #[test]
    fn claims_that_are_missing_wrong_or_too_many_are_refused() {
        type Spoil = fn(&mut Value);
        let spoils: [(&str, Spoil); 24] = [
            ("no iss", |c| drop(c.as_object_mut().expect("map").remove("iss"))),
            ("no aud", |c| drop(c.as_object_mut().expect("map").remove("aud"))),
            ("no sub", |c| drop(c.as_object_mut().expect("map").remove("sub"))),
            ("no exp", |c| drop(c.as_object_mut().expect("map").remove("exp"))),
            ("no iat", |c| drop(c.as_object_mut().expect("map").remove("iat"))),
            ("no jti", |c| drop(c.as_object_mut().expect("map").remove("jti"))),
            ("no typ", |c| drop(c.as_object_mut().expect("map").remove("typ"))),
            ("other typ", |c| c["typ"] = json!("ticket")),
            ("iat of the far past", |c| c["iat"] = json!(i64::MIN)),
            ("exp of the far future", |c| c["exp"] = json!(i64::MAX)),
            ("iat text", |c| c["iat"] = json!("0")),
            ("other iss", |c| c["iss"] = json!("other")),
            ("other aud", |c| c["aud"] = json!("other")),
            ("aud list", |c| c["aud"] = json!(["limen", "other"])),
            ("exp text", |c| c["exp"] = json!("9999999999")),
            ("exp float", |c| c["exp"] = json!(9999999999.5)),
            ("exp negative", |c| c["exp"] = json!(-1)),
            ("exp passed", |c| c["exp"] = json!(now() - 10)),
            ("exp null", |c| c["exp"] = Value::Null),
            ("too long a life", |c| c["exp"] = json!(now() + 721 * 3600)),
            ("iat ahead", |c| c["iat"] = json!(now() + 60)),
            ("nbf", |c| c["nbf"] = json!("soon")),
            ("sub no uuid", |c| c["sub"] = json!("admin")),
            ("a role", |c| c["role"] = json!("admin")),
        ];
        let tokens = tokens();
        for (name, spoil) in spoils {
            let mut value = claims();
            spoil(&mut value);
            assert!(tokens.verify(&sign(&Header::new(Algorithm::HS256), &value)).is_err(), "{name}");
        }
    }

    #[test]
    fn no_algorithm_but_ours_and_no_header_but_ours() {
        let tokens = tokens();
        let good = sign(&Header::new(Algorithm::HS256), &claims());
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            assert!(tokens.verify(&sign(&Header::new(algorithm), &claims())).is_err());
        }
        let mut spoiled = Header::new(Algorithm::HS256);
        spoiled.kid = Some("../../dev/null".to_owned());
        assert!(tokens.verify(&sign(&spoiled, &claims())).is_err());
        let mut untyped = Header::new(Algorithm::HS256);
        untyped.typ = None;
        assert!(tokens.verify(&sign(&untyped, &claims())).is_err());

        let parts: Vec<&str> = good.split('.').collect();
        // {"typ":"JWT","alg":"none"}
        let none = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0";
        for bad in [
            format!("{}.{}.", parts[0], parts[1]),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{good}="),
            format!("{good}.a.b"),
            format!("{}.{}.{}", parts[0], parts[1], &parts[2][1..]),
            "a".repeat(100_000),
            String::new(),
            "..".to_owned(),
        ] {
            assert!(tokens.verify(&bad).is_err(), "{bad:.60}");
        }
        let other = Tokens::new(&Secret::new("another-0123456789abcdefghijklmnop"));
        assert!(other.verify(&good).is_err());
    }

    #[test]
    fn what_the_previous_secret_signed_is_good_and_it_signs_no_more() {
        let previous = "another-0123456789abcdefghijklmnop";
        let old = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims(),
            &EncodingKey::from_secret(previous.as_bytes()),
        );
        let old = old.expect("signs");
        assert!(tokens().verify(&old).is_err());
        let mut rotated = tokens();
        rotated.also_verify(&Secret::new(previous));
        assert!(rotated.verify(&old).is_ok());
        let now = limen_core::Clock::now(&limen_core::SystemClock);
        let session = SessionRecord {
            id: SessionId::generate(),
            user: UserId::generate(),
            created_at: now,
            expires_at: now + time::Duration::HOUR,
        };
        let (new, lasts) = rotated.issue(&session).expect("signs");
        assert_eq!((tokens().verify(&new).ok(), lasts), (Some((session.id, session.user)), 3600));
        assert!(Tokens::new(&Secret::new(previous)).verify(&new).is_err(), "the new one signs");
    }

    #[test]
    fn one_bearer_header_with_its_scheme_in_any_case() {
        let mut headers = HeaderMap::new();
        assert!(bearer(&headers).is_err());
        headers.insert(header::AUTHORIZATION, "bEaReR abc".parse().expect("value"));
        assert_eq!(bearer(&headers).ok(), Some("abc"));
        headers.append(header::AUTHORIZATION, "Bearer abc".parse().expect("value"));
        assert!(bearer(&headers).is_err(), "two headers");
        headers.insert(header::AUTHORIZATION, "Basic abc".parse().expect("value"));
        assert!(bearer(&headers).is_err(), "another scheme");
    }
}
