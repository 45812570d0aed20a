//! Passwords are hashed with argon2id (19 MiB, t=2, p=1), at most as many at once as there are
//! cores, and at most 32 wait.
//!
//! They are hashed by threads of their own, each in memory of its own that it keeps: what is freed
//! after each hash stays with the allocator, once for each of the hundreds of threads that a
//! runtime may start for blocking work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Result};
use crate::secret::Secret;

/// How many may wait.
const WAITING: usize = 32;

/// What a thread hashes in.
type Memory = Vec<Block>;
type Job = Box<dyn FnOnce(&mut Memory) + Send>;

#[derive(Debug)]
pub(crate) struct Hasher {
    jobs: mpsc::Sender<Job>,
    admitted: Arc<Semaphore>,
    /// The hash of no password: what an unknown name is checked against, so that it takes as long.
    nobody: Secret,
}

impl Hasher {
    /// Starts the threads, which end with the hasher.
    pub(super) fn new() -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..cores {
            let queue = Arc::clone(&queue);
            let work = move || {
                let mut memory = Memory::new();
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { break };
                    // Whoever waits for a job that panicked hears that its answer will not come.
                    drop(catch_unwind(AssertUnwindSafe(|| job(&mut memory))));
                }
            };
            std::thread::Builder::new().name("limen-hash".to_owned()).spawn(work).map_err(Error::internal)?;
        }
        let nobody = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5aGFzdGhpcw$\
                      dZ0n1wYVqQm1w2o1cF4c1f1m7cQ0nq1bUe0rO4cH2mE";
        Ok(Self { jobs, admitted: Arc::new(Semaphore::new(cores + WAITING)), nobody: Secret::new(nobody) })
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce(&mut Memory) -> T + Send + 'static) -> Result<T> {
        let admitted = Arc::clone(&self.admitted)
            .try_acquire_owned()
            .map_err(|_| Error::overloaded("Too many passwords are being checked"))?;
        let (done, answer) = oneshot::channel();
        let job = move |memory: &mut Memory| {
            // Held to the job's end, also where nobody waits for it any more.
            let _admitted = admitted;
            if !done.is_closed() {
                drop(done.send(work(memory)));
            }
        };
        self.jobs.send(Box::new(job)).map_err(|_| Error::internal("the hashing threads are gone"))?;
        answer.await.map_err(Error::internal)
    }

    /// The hash of a password, with its parameters and salt in it.
    pub(super) async fn hash(&self, password: Secret) -> Result<Secret> {
        let hash = self.work(move |memory| hash(memory, password.expose())).await?;
        hash.map(Secret::new).map_err(|error| Error::internal(error.to_string()))
    }

    /// Whether `hash` is of the password: never without one, after the same work.
    pub(super) async fn fits(&self, password: Secret, hash: Option<Secret>) -> Result<bool> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        let fits = self.work(move |memory| fits(memory, password.expose(), hash.expose())).await?;
        Ok(fits.unwrap_or(false) && known)
    }
}

type Outcome<T> = std::result::Result<T, argon2::password_hash::Error>;

fn hash(memory: &mut Memory, password: &str) -> Outcome<String> {
    let (argon, salt) = (Argon2::default(), Salt::generate());
    let hash = PasswordHash {
        algorithm: Algorithm::default().ident(),
        version: Some(Version::default().into()),
        params: ParamsString::try_from(argon.params())?,
        hash: Some(digest(memory, &argon, password, &salt)?),
        salt: Some(salt),
    };
    Ok(hash.to_string())
}

/// Whether `hash` is of the password, with the parameters that are in it.
fn fits(memory: &mut Memory, password: &str, hash: &str) -> Outcome<bool> {
    let hash = PasswordHash::new(hash)?;
    let version = hash.version.map(Version::try_from).transpose()?.unwrap_or_default();
    let argon = Argon2::new(Algorithm::try_from(hash.algorithm.as_str())?, version, Params::try_from(&hash)?);
    let (Some(salt), Some(expected)) = (hash.salt, hash.hash) else { return Ok(false) };
    // Compared in a time that tells nothing.
    Ok(digest(memory, &argon, password, &salt)? == expected)
}

fn digest(memory: &mut Memory, argon: &Argon2<'_>, password: &str, salt: &[u8]) -> Outcome<Output> {
    let (blocks, length) = (argon.params().block_count(), argon.params().output_len());
    if memory.len() < blocks {
        memory.resize(blocks, Block::new());
    }
    let mut out = [0; Output::MAX_LENGTH];
    let out = &mut out[..length.unwrap_or(Params::DEFAULT_OUTPUT_LEN).min(Output::MAX_LENGTH)];
    argon.hash_password_into_with_memory(password.as_bytes(), salt, out, &mut memory[..blocks])?;
    Ok(Output::new(out)?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use argon2::password_hash::{PasswordHasher, PasswordVerifier};

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn an_unknown_name_costs_what_a_known_one_does() {
        let hasher = Hasher::new().expect("threads");
        let nobody = PasswordHash::new(hasher.nobody.expose()).expect("a hash like any other");
        let made = Argon2::default().hash_password(b"correct horse 1").expect("hashed").to_string();
        let made = PasswordHash::new(&made).expect("a hash");
        assert_eq!((&nobody.algorithm, nobody.version, &nobody.params), (&made.algorithm, made.version, &made.params));
        let cost = |name| made.params.get(name).and_then(|value| value.decimal().ok());
        assert_eq!((cost("m"), cost("t"), cost("p")), (Some(19 * 1024), Some(2), Some(1)));
        assert_eq!(nobody.hash.map(|hash| hash.len()), made.hash.map(|hash| hash.len()));
    }

    #[tokio::test]
    async fn hashes_are_those_of_argon2_and_memory_is_used_again() {
        let hasher = Hasher::new().expect("threads");
        let (good, bad) = (Secret::new("correct horse 1"), Secret::new("correct horse 2"));
        let other = Argon2::default().hash_password(b"correct horse 1").expect("hashed").to_string();
        for _ in 0..3 {
            let hash = hasher.hash(good.clone()).await.expect("hashed");
            let parsed = PasswordHash::new(hash.expose()).expect("a hash");
            Argon2::default().verify_password(b"correct horse 1", &parsed).expect("it fits");
            for hash in [hash, Secret::new(other.clone())] {
                assert!(hasher.fits(good.clone(), Some(hash.clone())).await.expect("checked"));
                assert!(!hasher.fits(bad.clone(), Some(hash)).await.expect("checked"));
            }
        }
        for spoiled in ["", "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5aGFzdGhpcw", "$scrypt$ln=1$bm9ib2R5aGFzdGhpcw"] {
            assert!(!hasher.fits(good.clone(), Some(Secret::new(spoiled))).await.expect("checked"), "{spoiled}");
        }
        assert!(!hasher.fits(good, None).await.expect("checked"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn as_many_hash_as_there_are_cores_and_only_so_many_wait() {
        let hasher = Arc::new(Hasher::new().expect("threads"));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let running = Arc::new(AtomicUsize::new(0));
        let job = || {
            let (released, running) = (Arc::clone(&released), Arc::clone(&running));
            move |_: &mut Memory| {
                running.fetch_add(1, Ordering::SeqCst);
                released.lock().expect("no panic").recv().expect("released");
            }
        };
        let mut admitted = Vec::new();
        for _ in 0..cores + WAITING {
            let (hasher, job) = (Arc::clone(&hasher), job());
            admitted.push(tokio::spawn(async move { hasher.work(job).await }));
        }
        while hasher.admitted.available_permits() > 0 || running.load(Ordering::SeqCst) < cores {
            tokio::task::yield_now().await;
        }
        let refused = hasher.work(|_| ()).await.expect_err("nobody more may wait");
        assert_eq!((refused.kind(), refused.retry_after().is_some()), (ErrorKind::Unavailable, true));
        assert_eq!(running.load(Ordering::SeqCst), cores, "the others wait");
        // One that nobody waits for any more keeps its place until its turn, and is not worked at.
        let gone = admitted.pop().expect("the last one");
        gone.abort();
        gone.await.expect_err("it is aborted");
        assert!(hasher.work(|_| ()).await.is_err(), "its place is not free yet");
        (0..cores + WAITING).for_each(|_| release.send(()).expect("somebody waits"));
        for admitted in admitted {
            admitted.await.expect("joined").expect("done");
        }
        hasher.work(|_| ()).await.expect("there is room again");
        assert!(running.load(Ordering::SeqCst) >= cores + WAITING - 1);
    }

    #[tokio::test]
    async fn a_job_that_panics_takes_no_thread_with_it() {
        fn fails(_: &mut Memory) {
            panic!("on purpose");
        }
        let hasher = Hasher::new().expect("threads");
        for _ in 0..100 {
            hasher.work(fails).await.expect_err("no answer");
        }
        assert_eq!(hasher.work(|_| 1).await.expect("an answer"), 1);
    }
}
