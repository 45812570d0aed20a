//! The part of libvirt that the `virt` crate lacks, behind safe functions. All unsafe code of the
//! back end is in this file.
#![expect(unsafe_code, reason = "libvirt is C, and virt wraps no callback, no bulk counters and no leases")]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Debug;
use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::network::Network;
use virt::stream::Stream;

/// What happens on a connection. Called on the event thread: must not block.
pub(super) trait ConnectionSink: Debug + Send + Sync + 'static {
    /// The VM's state or definition changed.
    fn changed(&self, id: Uuid, definition: bool);
    /// The guest was reset.
    fn rebooted(&self, id: Uuid);
    /// The connection is lost for good.
    fn closed(&self);
}

/// Registers libvirt's own event loop and runs it on a thread of its own, once per process. It
/// must happen before the first connection. A loop that somebody registered before is kept.
pub(super) fn start_event_loop() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        virt::error::clear_error_callback();
        // SAFETY: takes no argument; libvirt ignores the call where a loop is registered already.
        if unsafe { virt_sys::virEventRegisterDefaultImpl() } < 0 {
            tracing::warn!("libvirt's event loop could not be registered; another one may be in use");
        }
        let thread = std::thread::Builder::new().name("limen-libvirt-ev".to_owned()).spawn(|| {
            loop {
                // SAFETY: the default loop was registered above; only this thread runs it for LIMEN.
                if unsafe { virt_sys::virEventRunDefaultImpl() } < 0 {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        });
        if let Err(error) = thread {
            tracing::error!(%error, "the thread for libvirt's events could not be started");
        }
    });
}

type Sink = Arc<dyn ConnectionSink>;

/// Callbacks of one connection; [`Callbacks::remove`] takes them back.
#[derive(Debug, Default)]
pub(super) struct Callbacks {
    ids: Vec<c_int>,
    close: bool,
}

impl Callbacks {
    /// Life-cycle, reboot, metadata and close events of `conn` to `sink`. Those that the driver does
    /// not know are left out, but life-cycle events must be had.
    pub(super) fn add(conn: &Connect, sink: &Sink) -> Result<Self, Error> {
        let mut callbacks = Self::default();
        let life_cycle: LifeCycleFn = on_life_cycle;
        let metadata: MetadataFn = on_metadata;
        // SAFETY: libvirt calls each function with the signature that belongs to its event id; the
        // generic type is only how the C API passes them.
        let (life_cycle, metadata) = unsafe {
            (
                std::mem::transmute::<LifeCycleFn, GenericFn>(life_cycle),
                std::mem::transmute::<MetadataFn, GenericFn>(metadata),
            )
        };
        callbacks.ids.push(register(conn, virt_sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, life_cycle, sink)?);
        let others = [
            (virt_sys::VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot as GenericFn),
            (virt_sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata),
        ];
        for (event, function) in others {
            callbacks.ids.extend(register(conn, event, function, sink).ok());
        }
        let opaque = Box::into_raw(Box::new(Arc::clone(sink))).cast::<c_void>();
        // SAFETY: `conn` is open; `opaque` is a boxed sink that `free_sink` releases exactly once,
        // by libvirt when the callback goes, or below when it was never taken.
        let added = unsafe {
            virt_sys::virConnectRegisterCloseCallback(conn.as_ptr(), Some(on_close), opaque, Some(free_sink))
        };
        callbacks.close = added == 0;
        if !callbacks.close {
            // SAFETY: libvirt did not take the pointer, so it is still ours.
            unsafe { free_sink(opaque) };
        }
        Ok(callbacks)
    }

    /// Takes the callbacks back; on a dead connection as far as that goes.
    pub(super) fn remove(self, conn: &Connect) {
        for id in self.ids {
            // SAFETY: `conn` is a valid handle and `id` came from it; a refusal changes nothing.
            unsafe { virt_sys::virConnectDomainEventDeregisterAny(conn.as_ptr(), id) };
        }
        if self.close {
            // SAFETY: `conn` is a valid handle on which this very function was registered.
            unsafe { virt_sys::virConnectUnregisterCloseCallback(conn.as_ptr(), Some(on_close)) };
        }
    }
}

type GenericFn = unsafe extern "C" fn(virt_sys::virConnectPtr, virt_sys::virDomainPtr, *mut c_void);
type LifeCycleFn =
    unsafe extern "C" fn(virt_sys::virConnectPtr, virt_sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type MetadataFn =
    unsafe extern "C" fn(virt_sys::virConnectPtr, virt_sys::virDomainPtr, c_int, *const c_char, *mut c_void);

fn register(
    conn: &Connect,
    event: virt_sys::virDomainEventID,
    function: GenericFn,
    sink: &Sink,
) -> Result<c_int, Error> {
    let opaque = Box::into_raw(Box::new(Arc::clone(sink))).cast::<c_void>();
    // SAFETY: `conn` is open, a null domain means all, and `opaque` is a boxed sink that
    // `free_sink` releases exactly once: by libvirt when the callback goes, or below on failure.
    let id = unsafe {
        virt_sys::virConnectDomainEventRegisterAny(
            conn.as_ptr(),
            std::ptr::null_mut(),
            event.cast_signed(),
            Some(function),
            opaque,
            Some(free_sink),
        )
    };
    if id < 0 {
        let error = Error::last_error();
        // SAFETY: libvirt did not take the pointer, so it is still ours.
        unsafe { free_sink(opaque) };
        return Err(error);
    }
    Ok(id)
}

unsafe extern "C" fn free_sink(opaque: *mut c_void) {
    // SAFETY: `opaque` is the boxed sink of the registration that ends now.
    let sink = unsafe { Box::from_raw(opaque.cast::<Sink>()) };
    catch_unwind(AssertUnwindSafe(|| drop(sink))).ok();
}

/// Calls `with` with the sink and the domain's UUID; no panic leaves it.
///
/// # Safety
/// `opaque` is a boxed sink and `domain` valid for the length of the call.
unsafe fn tell(opaque: *mut c_void, domain: virt_sys::virDomainPtr, with: impl FnOnce(&Sink, Uuid)) {
    // SAFETY: by this function's contract.
    let sink = unsafe { &*opaque.cast::<Sink>() };
    // SAFETY: by this function's contract.
    if let Some(id) = unsafe { domain_uuid(domain) } {
        catch_unwind(AssertUnwindSafe(|| with(sink, id))).ok();
    }
}

/// # Safety
/// `domain` is a valid handle or null.
unsafe fn domain_uuid(domain: virt_sys::virDomainPtr) -> Option<Uuid> {
    let mut bytes = [0_u8; 16];
    // SAFETY: libvirt checks the handle and writes 16 bytes.
    let done = unsafe { virt_sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) } == 0;
    done.then(|| Uuid::from_bytes(bytes))
}

unsafe extern "C" fn on_life_cycle(
    _: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    event: c_int,
    _: c_int,
    opaque: *mut c_void,
) -> c_int {
    let defined = [virt_sys::VIR_DOMAIN_EVENT_DEFINED, virt_sys::VIR_DOMAIN_EVENT_UNDEFINED]
        .iter()
        .any(|kind| kind.cast_signed() == event);
    // SAFETY: libvirt passes what was registered and a domain that lives during the call.
    unsafe { tell(opaque, domain, |sink, id| sink.changed(id, defined)) };
    0
}

unsafe extern "C" fn on_reboot(_: virt_sys::virConnectPtr, domain: virt_sys::virDomainPtr, opaque: *mut c_void) {
    // SAFETY: libvirt passes what was registered and a domain that lives during the call.
    unsafe { tell(opaque, domain, |sink, id| sink.rebooted(id)) };
}

unsafe extern "C" fn on_metadata(
    _: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    _: c_int,
    _: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt passes what was registered and a domain that lives during the call.
    unsafe { tell(opaque, domain, |sink, id| sink.changed(id, true)) };
}

unsafe extern "C" fn on_close(_: virt_sys::virConnectPtr, _: c_int, opaque: *mut c_void) {
    // SAFETY: libvirt passes what was registered.
    let sink = unsafe { &*opaque.cast::<Sink>() };
    catch_unwind(AssertUnwindSafe(|| sink.closed())).ok();
}

/// State and reason of a domain (`virDomainGetState`); virt's own loses the error.
pub(super) fn domain_state(domain: &Domain) -> Result<(u32, u32), Error> {
    let (mut state, mut reason): (c_int, c_int) = (0, 0);
    // SAFETY: the domain is valid and both numbers outlive the call.
    let done = unsafe { virt_sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) };
    if done < 0 { Err(Error::last_error()) } else { Ok((state.cast_unsigned(), reason.cast_unsigned())) }
}

/// A value of a bulk answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(u64),
    Text(String),
    Other,
}

/// One domain of a bulk answer.
#[derive(Debug)]
pub(super) struct DomainStats {
    pub(super) id: Uuid,
    pub(super) name: String,
    values: HashMap<String, Value>,
}

impl DomainStats {
    /// The number of that name.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.values.get(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// The text of that name.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// Counters of all domains in one call (`virConnectGetAllDomainStats`).
pub(super) fn all_domain_stats(conn: &Connect, groups: u32, flags: u32) -> Result<Vec<DomainStats>, Error> {
    let mut records: *mut virt_sys::virDomainStatsRecordPtr = std::ptr::null_mut();
    // SAFETY: `conn` is open and `records` receives a list that is freed below.
    let count = unsafe {
        virt_sys::virConnectGetAllDomainStats(conn.as_ptr(), groups as c_uint, &raw mut records, flags as c_uint)
    };
    // SAFETY: the list is what libvirt has just answered, and belongs to nobody else.
    unsafe { taken(count, records) }
}

/// Counters of these domains of one connection, in one call (`virDomainListGetStats`).
pub(super) fn domain_list_stats(domains: &[Domain], groups: u32, flags: u32) -> Result<Vec<DomainStats>, Error> {
    if domains.is_empty() {
        return Ok(Vec::new());
    }
    // SAFETY: the handles are used below alone, while `domains` holds them.
    let mut list: Vec<virt_sys::virDomainPtr> = domains.iter().map(|domain| unsafe { domain.as_ptr() }).collect();
    list.push(std::ptr::null_mut());
    let mut records: *mut virt_sys::virDomainStatsRecordPtr = std::ptr::null_mut();
    // SAFETY: the list holds valid handles, which outlive the call, and ends with null; `records`
    // receives a list that is freed below.
    let count = unsafe {
        virt_sys::virDomainListGetStats(list.as_mut_ptr(), groups as c_uint, &raw mut records, flags as c_uint)
    };
    // SAFETY: the list is what libvirt has just answered, and belongs to nobody else.
    unsafe { taken(count, records) }
}

/// What libvirt answered, copied; its own is freed.
///
/// # Safety
/// `records` is the list of an answer of `count` records, or `count` is negative.
unsafe fn taken(count: c_int, records: *mut virt_sys::virDomainStatsRecordPtr) -> Result<Vec<DomainStats>, Error> {
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let mut domains = Vec::with_capacity(count);
    for place in 0..count {
        // SAFETY: the list holds `count` valid records until it is freed.
        let record = unsafe { &**records.add(place) };
        // SAFETY: the record holds a valid domain and `nparams` parameters.
        unsafe {
            let Some(id) = domain_uuid(record.dom) else { continue };
            let name = text(virt_sys::virDomainGetName(record.dom));
            let parameters: &[virt_sys::virTypedParameter] = match usize::try_from(record.nparams) {
                Ok(length) if length > 0 => std::slice::from_raw_parts(record.params, length),
                _ => &[],
            };
            let values = parameters.iter().map(|parameter| named(parameter)).collect();
            domains.push(DomainStats { id, name, values });
        }
    }
    // SAFETY: the list came from libvirt and is freed once.
    unsafe { virt_sys::virDomainStatsRecordListFree(records) };
    Ok(domains)
}

/// # Safety
/// `parameter` is a filled parameter of libvirt.
unsafe fn named(parameter: &virt_sys::virTypedParameter) -> (String, Value) {
    // SAFETY: the name is NUL-terminated within the field.
    let name = unsafe { text(parameter.field.as_ptr()) };
    // SAFETY: the type says which field of the union is set.
    let value = unsafe {
        match parameter.type_.cast_unsigned() {
            virt_sys::VIR_TYPED_PARAM_INT => Value::Number(u64::try_from(parameter.value.i).unwrap_or(0)),
            virt_sys::VIR_TYPED_PARAM_UINT => Value::Number(u64::from(parameter.value.ui)),
            virt_sys::VIR_TYPED_PARAM_LLONG => Value::Number(u64::try_from(parameter.value.l).unwrap_or(0)),
            virt_sys::VIR_TYPED_PARAM_ULLONG => Value::Number(parameter.value.ul),
            virt_sys::VIR_TYPED_PARAM_STRING => Value::Text(text(parameter.value.s)),
            _ => Value::Other,
        }
    };
    (name, value)
}

/// # Safety
/// `chars` is null or NUL-terminated.
unsafe fn text(chars: *const c_char) -> String {
    if chars.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(chars) }.to_string_lossy().into_owned()
}

/// An address that a network's DHCP server gave away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) mac: String,
    pub(super) address: String,
}

/// All leases of a network (`virNetworkGetDHCPLeases`).
pub(super) fn leases(network: &Network) -> Result<Vec<Lease>, Error> {
    let mut list: *mut virt_sys::virNetworkDHCPLeasePtr = std::ptr::null_mut();
    // SAFETY: the network is valid, no MAC means all, and `list` is freed below.
    let count = unsafe { virt_sys::virNetworkGetDHCPLeases(network.as_ptr(), std::ptr::null(), &raw mut list, 0) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let mut leases = Vec::with_capacity(count);
    for place in 0..count {
        // SAFETY: the list holds `count` valid leases, each freed once after it was read.
        unsafe {
            let lease = *list.add(place);
            leases.push(Lease { mac: text((*lease).mac), address: text((*lease).ipaddr) });
            virt_sys::virNetworkDHCPLeaseFree(lease);
        }
    }
    // SAFETY: the list itself was allocated by libvirt with malloc; free of null is a no-op.
    unsafe { libc::free(list.cast()) };
    Ok(leases)
}

/// Takes over a descriptor that libvirt handed out, as from `virDomainOpenGraphicsFD`.
pub(super) fn own_descriptor(raw: u32) -> Option<OwnedFd> {
    let raw = c_int::try_from(raw).ok()?;
    // SAFETY: libvirt returned a fresh descriptor that belongs to the caller alone.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What comes out of a stream. Called on the event thread: must not block.
pub(super) trait StreamSink: Send + Sync + 'static {
    /// Bytes arrived.
    fn data(&self, bytes: &[u8]);
    /// Nothing more will come.
    fn ended(&self);
}

/// Lets `sink` have all that a non-blocking stream receives, until it ends or [`unwatch`].
pub(super) fn watch(stream: &Stream, sink: Arc<dyn StreamSink>) -> Result<(), Error> {
    let events =
        virt_sys::VIR_STREAM_EVENT_READABLE | virt_sys::VIR_STREAM_EVENT_ERROR | virt_sys::VIR_STREAM_EVENT_HANGUP;
    let opaque = Box::into_raw(Box::new(sink)).cast::<c_void>();
    // SAFETY: the stream is valid; `opaque` is a boxed sink that `free_stream_sink` releases once.
    let added = unsafe {
        virt_sys::virStreamEventAddCallback(
            stream.as_ptr(),
            events.cast_signed(),
            Some(on_stream),
            opaque,
            Some(free_stream_sink),
        )
    };
    if added < 0 {
        let error = Error::last_error();
        // SAFETY: libvirt did not take the pointer, so it is still ours.
        unsafe { free_stream_sink(opaque) };
        return Err(error);
    }
    Ok(())
}

/// Takes the sink of a stream back.
pub(super) fn unwatch(stream: &Stream) {
    // SAFETY: the stream is valid; without a callback libvirt refuses, which changes nothing.
    unsafe { virt_sys::virStreamEventRemoveCallback(stream.as_ptr()) };
}

unsafe extern "C" fn free_stream_sink(opaque: *mut c_void) {
    // SAFETY: `opaque` is the boxed sink of the registration that ends now.
    let sink = unsafe { Box::from_raw(opaque.cast::<Arc<dyn StreamSink>>()) };
    catch_unwind(AssertUnwindSafe(|| drop(sink))).ok();
}

unsafe extern "C" fn on_stream(stream: virt_sys::virStreamPtr, events: c_int, opaque: *mut c_void) {
    // SAFETY: libvirt passes what was registered.
    let sink = unsafe { &*opaque.cast::<Arc<dyn StreamSink>>() };
    let mut over = events.cast_unsigned() & (virt_sys::VIR_STREAM_EVENT_ERROR | virt_sys::VIR_STREAM_EVENT_HANGUP) != 0;
    let mut buffer = [0_u8; 16 * 1024];
    // A bounded number of turns, so that one flooding guest leaves the event thread to others.
    for _ in 0..16 {
        // SAFETY: the stream lives during the call; the buffer is as long as is said.
        let got = unsafe { virt_sys::virStreamRecv(stream, buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(got) {
            Ok(0) => over = true,
            Ok(length) => {
                catch_unwind(AssertUnwindSafe(|| sink.data(&buffer[..length]))).ok();
                continue;
            }
            // -2: nothing more for now; -1: an error that ends the stream.
            Err(_) => over |= got == -1,
        }
        break;
    }
    if over {
        // SAFETY: the stream lives during the call; without events the callback is not called again.
        unsafe { virt_sys::virStreamEventUpdateCallback(stream, 0) };
        catch_unwind(AssertUnwindSafe(|| sink.ended())).ok();
    }
}

/// Sends all of `bytes` on a stream; blocks until they are on their way.
pub(super) fn send_all(stream: &Stream, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        // SAFETY: the stream is valid and the bytes are as many as is said.
        let sent = unsafe { virt_sys::virStreamSend(stream.as_ptr(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(sent) {
            Ok(length) => bytes = &bytes[length.min(bytes.len())..],
            // -2: would block, which only a non-blocking stream says.
            Err(_) if sent == -2 => std::thread::sleep(std::time::Duration::from_millis(2)),
            Err(_) => return Err(Error::last_error()),
        }
    }
    Ok(())
}
