//! VMs as bytes: rendered once when they change, copied when they are listed.
//!
//! A VM's JSON ends with its status, and the status with the host's `observed_at` and `stale`,
//! which change every few seconds for all VMs of a host at once. So the part before is kept with
//! the VM, and the end is written last.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::OnceCell;

use super::inventory::{Shown, VmQuery};
use crate::authz::Scope;
use crate::error::{Error, Result};
use crate::model::{EventNumber, HostId, PageRequest, Vm};

/// A VM of a page.
#[derive(Debug, Clone)]
pub struct ListedVm {
    /// The VM.
    pub vm: Arc<Vm>,
    /// When its host was last observed in full.
    pub observed_at: Option<time::OffsetDateTime>,
    /// Whether that is too long ago to rely on.
    pub stale: bool,
}

impl ListedVm {
    /// All of it as JSON, as in [`VmView::json`](super::VmView::json).
    #[must_use]
    pub fn json(&self) -> Bytes {
        close_json(&open_json(&self.vm), &Ending::new(self.observed_at, self.stale))
    }
}

/// A page of VMs: as values, and rendered.
#[derive(Debug, Clone)]
pub struct VmPage {
    /// The VMs, by id.
    pub vms: Arc<[ListedVm]>,
    /// Where the next page begins ([`PageRequest::with_cursor`]); none at the end.
    pub next_cursor: Option<String>,
    /// `{"items": [...], "next_cursor": null | "..."}`; each item as in [`VmView::json`](super::VmView::json).
    pub json: Bytes,
    /// The event that it shows.
    pub event: EventNumber,
    /// Shared with the page in the cache, so that it is compressed once.
    compressed: Arc<OnceCell<Bytes>>,
}

impl VmPage {
    pub(super) fn new(shown: &[Shown], more: bool, endings: &HashMap<HostId, Ending>, event: EventNumber) -> Self {
        let unknown = Ending::new(None, true);
        let listed = |shown: &Shown| {
            let ending = endings.get(&shown.host).unwrap_or(&unknown);
            ListedVm { vm: Arc::clone(&shown.vm), observed_at: ending.observed_at, stale: ending.stale }
        };
        let next_cursor = shown.last().filter(|_| more).map(|last| last.vm.id.to_string());
        let json = page_json(shown, next_cursor.as_deref(), endings, &unknown);
        Self { vms: shown.iter().map(listed).collect(), next_cursor, json, event, compressed: Arc::default() }
    }

    /// A page that a server told.
    #[cfg(feature = "remote")]
    pub(crate) fn told(vms: Arc<[ListedVm]>, next_cursor: Option<String>, event: EventNumber) -> Self {
        let json = whole_page(vms.iter().map(|vm| [vm.json(), Bytes::new()]), next_cursor.as_deref());
        Self { vms, next_cursor, json, event, compressed: Arc::default() }
    }

    pub(super) fn at(self, event: EventNumber) -> Self {
        Self { event, ..self }
    }

    /// [`json`](Self::json), compressed (gzip, RFC 1952): about a tenth of it. Made once for all who
    /// read the same page; no async thread is held up meanwhile.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal): the runtime is shutting down.
    pub async fn gzip(&self) -> Result<Bytes> {
        let compress = || async {
            let json = self.json.clone();
            tokio::task::spawn_blocking(move || gzip(&json)).await.map_err(Error::internal)?.map_err(Error::internal)
        };
        self.compressed.get_or_try_init(compress).await.cloned()
    }
}

fn gzip(json: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 8), Compression::fast());
    encoder.write_all(json)?;
    Ok(encoder.finish()?.into())
}

/// The JSON of `vm` up to the end of its status: without `observed_at`, `stale` and two braces.
pub(super) fn open_json(vm: &Vm) -> Bytes {
    let mut json = serde_json::to_vec(vm).unwrap_or_default();
    json.truncate(json.len().saturating_sub(2));
    json.into()
}

/// What ends the JSON of each VM of one host.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    observed_at: Option<time::OffsetDateTime>,
    stale: bool,
    json: Bytes,
}

impl Ending {
    pub(super) fn new(observed_at: Option<time::OffsetDateTime>, stale: bool) -> Self {
        let at = observed_at.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
        let at = at.map_or_else(|| "null".to_owned(), |at| format!("\"{at}\""));
        Self { observed_at, stale, json: format!(",\"observed_at\":{at},\"stale\":{stale}}}}}").into() }
    }
}

/// One VM's whole JSON.
pub(super) fn close_json(open: &[u8], ending: &Ending) -> Bytes {
    let mut json = BytesMut::with_capacity(open.len() + ending.json.len());
    json.put_slice(open);
    json.put_slice(&ending.json);
    json.freeze()
}

/// A page's whole JSON.
fn page_json(shown: &[Shown], next: Option<&str>, endings: &HashMap<HostId, Ending>, unknown: &Ending) -> Bytes {
    let ending = |vm: &Shown| endings.get(&vm.host).unwrap_or(unknown);
    whole_page(shown.iter().map(|vm| [&vm.json, &ending(vm).json]), next)
}

/// A page's whole JSON, of the two parts of each VM's.
fn whole_page<T: AsRef<[u8]>>(vms: impl Iterator<Item = [T; 2]> + Clone, next: Option<&str>) -> Bytes {
    let size: usize = vms.clone().flatten().map(|part| part.as_ref().len() + 1).sum();
    let mut json = BytesMut::with_capacity(size + 80);
    json.put_slice(b"{\"items\":[");
    for (index, vm) in vms.enumerate() {
        if index > 0 {
            json.put_u8(b',');
        }
        vm.iter().for_each(|part| json.put_slice(part.as_ref()));
    }
    json.put_slice(b"],\"next_cursor\":");
    match next {
        Some(next) => json.put_slice(format!("\"{next}\"").as_bytes()),
        None => json.put_slice(b"null"),
    }
    json.put_u8(b'}');
    json.freeze()
}

type PageKey = (Scope, VmQuery, PageRequest);

/// Pages as they were rendered last. An entry is good for as long as neither a VM nor the
/// observation of a host changed.
#[derive(Debug, Default)]
pub(super) struct PageCache(Mutex<HashMap<PageKey, (EventNumber, u64, VmPage)>>);

impl PageCache {
    const MAX_PAGES: usize = 64;
    /// All pages together, and with them what is compressed of them.
    const MAX_BYTES: usize = 8 << 20;

    /// The page under `key`, made by `render` unless one of this very `version` is there.
    pub(super) fn page(
        &self,
        key: PageKey,
        vms_changed: EventNumber,
        observed: u64,
        render: impl FnOnce(&PageKey) -> VmPage,
    ) -> VmPage {
        {
            let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, seen, page)) = pages.get(&key)
                && (*at, *seen) == (vms_changed, observed)
            {
                return page.clone();
            }
        }
        let page = render(&key);
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is out of date is of no use to anybody.
        pages.retain(|_, (at, seen, _)| (*at, *seen) == (vms_changed, observed));
        let bytes: usize = pages.values().map(|(_, _, page)| page.json.len()).sum();
        if pages.len() >= Self::MAX_PAGES || bytes + page.json.len() > Self::MAX_BYTES {
            pages.clear();
        }
        if page.json.len() <= Self::MAX_BYTES {
            pages.insert(key, (vms_changed, observed, page.clone()));
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_in_memory_have_a_limit_in_bytes_and_go_with_their_version() {
        let cache = PageCache::default();
        let held = || cache.0.lock().expect("no poison").values().map(|(_, _, page)| page.json.len()).sum::<usize>();
        let empty = VmPage::new(&[], false, &HashMap::new(), 0);
        let read = |limit: u32, version: EventNumber, bytes: usize| {
            let key = (Scope::ALL, VmQuery::default(), PageRequest::first(limit).expect("a page"));
            let rendered = |_: &PageKey| VmPage { json: vec![0; bytes].into(), ..empty.clone() };
            cache.page(key, version, 0, rendered).json.len()
        };
        for limit in 1..=40 {
            assert_eq!(read(limit, 1, 1 << 20), 1 << 20);
            assert!(held() <= PageCache::MAX_BYTES);
        }
        assert_eq!(read(1000, 1, PageCache::MAX_BYTES + 1), PageCache::MAX_BYTES + 1, "answered, not kept");
        assert!(held() <= PageCache::MAX_BYTES);
        read(1, 2, 10);
        assert_eq!(held(), 10, "what is out of date is dropped");
    }
}
