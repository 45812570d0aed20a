//! Serial consoles: the port as a shared stream.
//!
//! libvirt allows one serial stream for each VM, so the first opener makes a session and the
//! others join it: all see what the guest writes from then on, and what any of them writes
//! reaches the guest. A session has a connection and a thread of its own and ends with the VM, or
//! with its last reader. libvirt's client takes in whatever the guest writes and cannot hold it
//! back, so a reader that falls [`BEHIND`] bytes behind is cut off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc as queue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::stream::Stream;

use super::connection::Link;
use super::error::{conflict, during, from_libvirt, is};
use super::{LibvirtHypervisor, ffi, locked, vm};
use crate::error::{Error, Result};
use crate::hypervisor::ConsoleStream;
use crate::model::VmId;

/// Bytes that a reader may be behind, each piece counted with what keeping it costs.
const BEHIND: usize = 128 << 10;
const COST: usize = 96;
/// The longest piece.
const PIECE: usize = 16 << 10;
/// Writes of all readers together that wait for the guest.
const WRITES: usize = 8;
/// How often a session looks whether its connection is still there.
const CHECK: Duration = Duration::from_secs(1);
/// How often a VM that gave no console is looked at, 50 ms apart, until it shows that it stopped.
const STOPPING: usize = 20;
/// How long a stream that was given up may hold the port.
const HANDOVER: Duration = Duration::from_secs(2);

pub(super) fn running(conn: &Connect, id: VmId) -> Result<virt::domain::Domain> {
    let domain = vm::existing(conn, id)?;
    if vm::state(&domain)?.0.is_active() { Ok(domain) } else { Err(conflict("The VM is not running.")) }
}

/// Why a console was not given: mostly because the VM stops just now, which libvirt calls by many
/// names, and shows a moment later.
pub(super) fn refusal(conn: &Connect, id: VmId, call: &'static str, error: virt::error::Error) -> Error {
    for _ in 0..STOPPING {
        match running(conn, id) {
            Err(stopped) => return stopped.with_source(error),
            Ok(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    from_libvirt(call, error)
}

type Sessions = Arc<Mutex<HashMap<VmId, Arc<Session>>>>;

/// The serial sessions of one host.
#[derive(Debug, Default)]
pub(super) struct SerialConsoles(Sessions);

impl SerialConsoles {
    /// Ends all sessions.
    pub(super) fn close(&self) {
        for (_, session) in locked(&self.0).drain() {
            session.end();
        }
    }
}

pub(super) async fn open_serial(host: &LibvirtHypervisor, id: VmId) -> Result<ConsoleStream> {
    host.link.check()?;
    let joined = locked(&host.consoles.0).get(&id).and_then(Session::join);
    let reader = match joined {
        Some(reader) => reader,
        None => {
            let sessions = Arc::clone(&host.consoles.0);
            host.change("open_console", Some(id), move |link, conn| {
                // It may have been opened while this call waited for its turn.
                let joined = locked(&sessions).get(&id).and_then(Session::join);
                match joined {
                    Some(reader) => Ok(reader),
                    None => Session::open(link, conn, id, &sessions),
                }
            })
            .await?
        }
    };
    let (inner, outer) = tokio::io::duplex(PIECE);
    tokio::spawn(reader.relay(inner));
    Ok(Box::new(outer))
}

enum Command {
    /// With the permit that bounds how many wait.
    Write(Vec<u8>, OwnedSemaphorePermit),
    End,
}

/// What the guest wrote, with the permit for its bytes.
#[derive(Debug)]
struct Piece(Vec<u8>, OwnedSemaphorePermit);

/// The way to one reader.
#[derive(Debug)]
struct Feed {
    pieces: queue::UnboundedSender<Piece>,
    /// A permit for each byte that the reader may fall behind by now.
    room: Arc<Semaphore>,
}

impl Feed {
    fn new() -> (Self, queue::UnboundedReceiver<Piece>) {
        let (pieces, receiver) = queue::unbounded_channel();
        (Self { pieces, room: Arc::new(Semaphore::new(BEHIND)) }, receiver)
    }

    /// Whether the reader is still there and has room for `bytes`.
    fn give(&self, bytes: &[u8]) -> bool {
        let permits = u32::try_from(bytes.len() + COST).ok();
        let permit = permits.and_then(|count| Arc::clone(&self.room).try_acquire_many_owned(count).ok());
        permit.is_some_and(|permit| self.pieces.send(Piece(bytes.to_vec(), permit)).is_ok())
    }
}

/// One serial stream and those who read it.
#[derive(Debug)]
struct Session {
    /// Where each reader's pieces go; `None` once the session is over.
    readers: Mutex<Option<Vec<Feed>>>,
    commands: Mutex<mpsc::Sender<Command>>,
    writes: Arc<Semaphore>,
}

impl Session {
    /// Opens the VM's serial stream, for a first reader.
    fn open(link: &Link, conn: &Connect, id: VmId, sessions: &Sessions) -> Result<Reader> {
        drop(running(conn, id)?);
        let (commands, received) = mpsc::channel();
        let (first, pieces) = Feed::new();
        let session = Arc::new(Self {
            readers: Mutex::new(Some(vec![first])),
            commands: Mutex::new(commands),
            writes: Arc::new(Semaphore::new(WRITES)),
        });
        let conn = link.own_connection()?;
        let stream = session.attach(&conn, id)?;
        let (served, kept) = (Arc::clone(&session), Arc::clone(sessions));
        std::thread::Builder::new()
            .name("limen-serial".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                served.serve(&conn, stream, &received);
                locked(&kept).retain(|_, other| !Arc::ptr_eq(other, &served));
            })
            .map_err(Error::internal)?;
        locked(sessions).insert(id, Arc::clone(&session));
        Ok(Reader { session, pieces })
    }

    fn attach(self: &Arc<Self>, conn: &Connect, id: VmId) -> Result<Stream> {
        let domain = vm::existing(conn, id)?;
        let began = Instant::now();
        loop {
            let stream = Stream::new(conn, virt_sys::VIR_STREAM_NONBLOCK).map_err(during("virStreamNew"))?;
            match domain.open_console(None, &stream, 0) {
                Ok(()) => {
                    ffi::watch(&stream, Arc::clone(self) as Arc<dyn ffi::StreamSink>)
                        .map_err(during("virStreamEventAddCallback"))?;
                    return Ok(stream);
                }
                // A session that ended just now may not be gone from libvirt yet.
                Err(error) if is(&error, ErrorNumber::OperationFailed) => {
                    if began.elapsed() > HANDOVER {
                        return Err(conflict("The VM's serial port is in use outside LIMEN.").with_source(error));
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(refusal(conn, id, "virDomainOpenConsole", error)),
            }
        }
    }

    /// Writes for the readers until the session is over, then gives the stream up.
    fn serve(&self, conn: &Connect, stream: Stream, commands: &mpsc::Receiver<Command>) {
        loop {
            match commands.recv_timeout(CHECK) {
                Ok(Command::Write(bytes, permit)) => {
                    if ffi::send_all(&stream, &bytes).is_err() {
                        break;
                    }
                    drop(permit);
                }
                Err(mpsc::RecvTimeoutError::Timeout) if conn.is_alive().unwrap_or(false) => {}
                Ok(Command::End) | Err(_) => break,
            }
            if locked(&self.readers).is_none() {
                break;
            }
        }
        self.end();
        ffi::unwatch(&stream);
        // It fails where the guest has ended already.
        stream.abort().ok();
    }

    /// Lets another one read; none when the session is over.
    fn join(self: &Arc<Self>) -> Option<Reader> {
        let (reader, pieces) = Feed::new();
        locked(&self.readers).as_mut()?.push(reader);
        Some(Reader { session: Arc::clone(self), pieces })
    }

    /// Forgets readers that have gone; the last one ends the session.
    fn leave(&self) {
        let mut readers = locked(&self.readers);
        if let Some(open) = readers.as_mut() {
            open.retain(|reader| !reader.pieces.is_closed());
            if open.is_empty() {
                drop(readers);
                self.end();
            }
        }
    }

    fn end(&self) {
        locked(&self.readers).take();
        locked(&self.commands).send(Command::End).ok();
    }
}

impl ffi::StreamSink for Session {
    fn data(&self, bytes: &[u8]) {
        if let Some(readers) = locked(&self.readers).as_mut() {
            readers.retain(|reader| reader.give(bytes));
        }
        self.leave();
    }

    fn ended(&self) {
        self.end();
    }
}

/// One reader of a session.
struct Reader {
    session: Arc<Session>,
    pieces: queue::UnboundedReceiver<Piece>,
}

impl Reader {
    /// Carries bytes between the session and `pipe` until one of them ends.
    async fn relay(self, pipe: DuplexStream) {
        let Self { session, mut pieces } = self;
        let (mut from, mut to) = tokio::io::split(pipe);
        let out = async {
            while let Some(Piece(bytes, permit)) = pieces.recv().await {
                if to.write_all(&bytes).await.is_err() {
                    break;
                }
                drop(permit);
            }
        };
        let inward = async {
            let mut buffer = vec![0; PIECE];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                let Ok(permit) = Arc::clone(&session.writes).acquire_owned().await else { break };
                let command = Command::Write(buffer[..length].to_vec(), permit);
                if locked(&session.commands).send(command).is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = out => {}
            () = inward => {}
        }
        drop(pieces);
        session.leave();
    }
}
