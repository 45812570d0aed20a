//! Definitions, and looks at VMs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;

use super::connection::Link;
use super::error::{conflict, during, from_libvirt, is};
use super::xml::read::{self, DefinitionFacts};
use super::xml::{edit, write};
use super::{ffi, network, storage};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{DefinitionChange, HostVm, VmDefinition};
use crate::model::{Address, Firmware, VmId, VmState};

/// With secrets, because what is read may be defined again; it is neither logged nor shown.
const DEFINITION: u32 = virt_sys::VIR_DOMAIN_XML_INACTIVE | virt_sys::VIR_DOMAIN_XML_SECURE;
/// How often a removal that meets others' changes is begun again.
const REMOVAL_TURNS: usize = 20;

/// The domain of `id`; none only on a typed "no such domain".
pub(super) fn find(conn: &Connect, id: VmId) -> Result<Option<Domain>> {
    match conn.lookup_domain_by_uuid(id.0) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if is(&error, ErrorNumber::NoDomain) => Ok(None),
        Err(error) => Err(from_libvirt("virDomainLookupByUUID", error)),
    }
}

pub(super) fn existing(conn: &Connect, id: VmId) -> Result<Domain> {
    find(conn, id)?.ok_or_else(|| Error::not_found("VM"))
}

fn definition_text(domain: &Domain) -> Result<String> {
    domain.xml_desc(DEFINITION).map_err(during("virDomainGetXMLDesc"))
}

pub(super) fn create(link: &Link, conn: &Connect, vm: &VmDefinition) -> Result<()> {
    if let Some(domain) = find(conn, vm.id)? {
        return already_there(&domain, vm);
    }
    let facts = link.explore(conn)?;
    if vm.spec.firmware == Firmware::Uefi && !facts.uefi {
        return Err(Error::new(ErrorKind::Unsupported, "The host has no UEFI firmware for guests."));
    }
    for (place, nic) in vm.spec.nics.iter().enumerate() {
        write_check_network(conn, place, &nic.network)?;
    }
    let files = storage::files_of(link, conn, vm)?;
    let text = write::definition(vm, &facts, &files)?;
    // libvirt's define replaces a domain of the same UUID without a word, so it was looked for
    // first, and this VM is this call's alone; of the same name it refuses another one.
    match conn.define_domain_xml(&text) {
        Ok(domain) => {
            link.facts.doubt(vm.id);
            if vm.autostart {
                domain.set_autostart(true).map_err(during("virDomainSetAutostart"))?;
            }
            Ok(())
        }
        Err(error) => {
            if let Some(domain) = find(conn, vm.id)? {
                return already_there(&domain, vm);
            }
            let refused = from_libvirt("virDomainDefineXML", error);
            match conn.lookup_domain_by_name(&vm.domain_name()) {
                Ok(_) => Err(taken().with_source(refused)),
                Err(_) => Err(refused),
            }
        }
    }
}

pub(super) fn read_definition(conn: &Connect, id: VmId) -> Result<String> {
    definition_text(&existing(conn, id)?)
}

pub(super) fn restore(link: &Link, conn: &Connect, id: VmId, text: &str) -> Result<()> {
    let facts = read::definition(text).map_err(|error| no_definition().with_source(error))?;
    if read::id(text)? != Some(id.0) {
        return Err(no_definition());
    }
    let same = |domain: &Domain| {
        let there = read::definition(&definition_text(domain)?)?;
        if there.mark == facts.mark { Ok(()) } else { Err(taken()) }
    };
    if let Some(domain) = find(conn, id)? {
        return same(&domain);
    }
    match conn.define_domain_xml(text) {
        Ok(_) => {
            link.facts.doubt(id);
            Ok(())
        }
        Err(error) => {
            if let Some(domain) = find(conn, id)? {
                return same(&domain);
            }
            let refused = from_libvirt("virDomainDefineXML", error);
            // libvirt has one code for a name that is taken and for much else.
            let name = read::name(text)?.unwrap_or_default();
            match conn.lookup_domain_by_name(&name) {
                Ok(_) => Err(taken().with_source(refused)),
                Err(_) => Err(refused),
            }
        }
    }
}

fn no_definition() -> Error {
    Error::invalid("definition", "It is no definition of this VM.")
}

fn taken() -> Error {
    Error::new(ErrorKind::AlreadyExists, "The host has another VM of this id or name.")
}

fn already_there(domain: &Domain, vm: &VmDefinition) -> Result<()> {
    let facts = read::definition(&definition_text(domain)?)?;
    if facts.mark != Some(vm.mark) {
        return Err(taken());
    }
    // An earlier call may have ended between its define and this.
    if vm.autostart && !domain.autostart().map_err(during("virDomainGetAutostart"))? {
        domain.set_autostart(true).map_err(during("virDomainSetAutostart"))?;
    }
    Ok(())
}

fn write_check_network(conn: &Connect, place: usize, name: &str) -> Result<()> {
    let field = format!("nics[{place}].network");
    if name.contains('\0') {
        return Err(Error::invalid(field, "It must not contain control characters."));
    }
    match conn.lookup_network_by_name(name) {
        Ok(_) => Ok(()),
        Err(error) if is(&error, ErrorNumber::NoNetwork) => {
            Err(Error::invalid(field, "The host has no network of this name.").with_source(error))
        }
        Err(error) => Err(from_libvirt("virNetworkLookupByName", error)),
    }
}

pub(super) fn change(
    link: &Link,
    conn: &Connect,
    id: VmId,
    expected: &str,
    change: &DefinitionChange,
) -> Result<String> {
    let domain = existing(conn, id)?;
    let text = definition_text(&domain)?;
    let hash = read::definition(&text)?.hash;
    let edited = edit::apply(&text, change)?;
    let autostart = match change.autostart {
        Some(wanted) if domain.autostart().map_err(during("virDomainGetAutostart"))? != wanted => Some(wanted),
        _ => None,
    };
    if edited.is_none() && autostart.is_none() {
        return Ok(hash);
    }
    if hash != expected {
        return Err(conflict("The VM's definition was changed outside; look at it again."));
    }
    if let Some(edited) = edited {
        conn.define_domain_xml(&edited).map_err(during("virDomainDefineXML"))?;
        link.facts.doubt(id);
    }
    if let Some(wanted) = autostart {
        domain.set_autostart(wanted).map_err(during("virDomainSetAutostart"))?;
    }
    Ok(read::definition(&definition_text(&domain)?)?.hash)
}

/// Destroys and undefines until there is no such domain: one that is started meanwhile outlives
/// its undefine as a transient one and is met in the next turn.
pub(super) fn remove(link: &Link, conn: &Connect, id: VmId) -> Result<()> {
    let mut last = None;
    for turn in 0..REMOVAL_TURNS {
        let Some(domain) = find(conn, id)? else {
            link.facts.doubt(id);
            return Ok(());
        };
        if turn > 0 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        if domain.is_active().unwrap_or(false)
            && let Err(error) = domain.destroy()
        {
            last = Some(from_libvirt("virDomainDestroy", error));
        }
        if domain.is_persistent().unwrap_or(true)
            && let Err(error) = undefine(&domain)
        {
            last = Some(from_libvirt("virDomainUndefineFlags", error));
        }
        if let Some(error) = last.take_if(|error| !is_race(error)) {
            return match find(conn, id)? {
                Some(_) => Err(error),
                None => Ok(()),
            };
        }
    }
    Err(last.unwrap_or_else(|| conflict("The VM keeps coming back; something else starts it.")))
}

fn is_race(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound)
}

/// With all that belongs to it, as far as this libvirt knows such things.
fn undefine(domain: &Domain) -> Result<(), virt::error::Error> {
    const BASE: u32 = virt_sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | virt_sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
    const NVRAM: u32 = BASE | virt_sys::VIR_DOMAIN_UNDEFINE_NVRAM | virt_sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    const ALL: u32 = NVRAM | virt_sys::VIR_DOMAIN_UNDEFINE_TPM;
    let mut result = domain.undefine_flags(ALL);
    for flags in [NVRAM, BASE] {
        match result {
            Err(error) if is(&error, ErrorNumber::InvalidArg) || is(&error, ErrorNumber::ArgumentUnsupported) => {
                result = domain.undefine_flags(flags);
            }
            other => return other,
        }
    }
    result
}

pub(super) fn get(link: &Link, conn: &Connect, id: VmId) -> Result<HostVm> {
    let domain = existing(conn, id)?;
    let facts = Arc::new(read::definition(&definition_text(&domain)?)?);
    link.facts.keep(id, Arc::clone(&facts));
    let (state, reason) = state(&domain)?;
    let addresses = if state.is_active() { addresses(conn, [&*facts].into_iter()) } else { HashMap::new() };
    Ok(HostVm {
        id,
        name: domain.name().map_err(during("virDomainGetName"))?,
        mark: facts.mark,
        state,
        reason,
        autostart: autostart(&domain)?,
        vcpus: facts.vcpus,
        memory_mib: facts.memory_mib,
        definition_hash: facts.hash.clone(),
        addresses: of_nics(&facts, &addresses),
    })
}

/// A transient domain has no autostart.
fn autostart(domain: &Domain) -> Result<bool> {
    match domain.autostart() {
        Ok(autostart) => Ok(autostart),
        Err(error) if is(&error, ErrorNumber::OperationInvalid) => Ok(false),
        Err(error) => Err(from_libvirt("virDomainGetAutostart", error)),
    }
}

/// Every domain in a number of calls that does not grow with their number: states in one, two
/// filtered lists for what states do not tell, one call for each network with running VMs, and the
/// definitions that [`FactCache`](super::facts::FactCache) wants to be read.
pub(super) fn list(link: &Link, conn: &Connect) -> Result<Vec<HostVm>> {
    let domains = ffi::all_domain_stats(conn, virt_sys::VIR_DOMAIN_STATS_STATE, 0)
        .map_err(during("virConnectGetAllDomainStats"))?;
    let autostarted = listed(conn, virt_sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART)?;
    let saved = listed(conn, virt_sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)?;
    let present: HashSet<VmId> = domains.iter().map(|domain| VmId(domain.id)).collect();
    for id in link.facts.due(&present) {
        // One that vanished since is left out below.
        let Some(domain) = find(conn, id)? else { continue };
        match definition_text(&domain) {
            Ok(text) => link.facts.keep(id, Arc::new(read::definition(&text)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut vms = Vec::with_capacity(domains.len());
    let mut definitions = Vec::with_capacity(domains.len());
    for domain in domains {
        let id = VmId(domain.id);
        let Some(facts) = link.facts.get(id) else { continue };
        let code = |name| domain.number(name).and_then(|code| u32::try_from(code).ok());
        let (state, reason) =
            meaning(code("state.state").unwrap_or(0), code("state.reason").unwrap_or(0), saved.contains(&id));
        vms.push(HostVm {
            id,
            name: domain.name,
            mark: facts.mark,
            state,
            reason,
            autostart: autostarted.contains(&id),
            vcpus: facts.vcpus,
            memory_mib: facts.memory_mib,
            definition_hash: facts.hash.clone(),
            addresses: Vec::new(),
        });
        definitions.push(facts);
    }
    let active = vms.iter().zip(&definitions).filter(|(vm, _)| vm.state.is_active()).map(|(_, facts)| &**facts);
    let known = addresses(conn, active);
    for (vm, facts) in vms.iter_mut().zip(&definitions).filter(|(vm, _)| vm.state.is_active()) {
        vm.addresses = of_nics(facts, &known);
    }
    Ok(vms)
}

fn addresses<'a>(
    conn: &Connect,
    definitions: impl Iterator<Item = &'a DefinitionFacts>,
) -> HashMap<String, Vec<Address>> {
    let networks = definitions.flat_map(|facts| &facts.nics).filter_map(|nic| nic.network.clone()).collect();
    network::leases(conn, &networks)
}

fn of_nics(facts: &DefinitionFacts, known: &HashMap<String, Vec<Address>>) -> Vec<Address> {
    facts.nics.iter().filter_map(|nic| known.get(&nic.mac)).flatten().cloned().collect()
}

fn listed(conn: &Connect, filter: u32) -> Result<HashSet<VmId>> {
    let domains = conn.list_all_domains(filter).map_err(during("virConnectListAllDomains"))?;
    domains.iter().map(|domain| domain.uuid().map(VmId).map_err(during("virDomainGetUUID"))).collect()
}

/// The state of one domain, and why.
pub(super) fn state(domain: &Domain) -> Result<(VmState, Option<String>)> {
    let (state, reason) = ffi::domain_state(domain).map_err(during("virDomainGetState"))?;
    let saved = state == virt_sys::VIR_DOMAIN_SHUTOFF
        && domain.has_managed_save(0).map_err(during("virDomainHasManagedSaveImage"))?;
    Ok(meaning(state, reason, saved))
}

/// libvirt's state and reason in LIMEN's words; the reasons are libvirt's own.
fn meaning(state: u32, reason: u32, saved: bool) -> (VmState, Option<String>) {
    const RUNNING: &[&str] = &[
        "unknown",
        "booted",
        "migrated",
        "restored",
        "from_snapshot",
        "unpaused",
        "migration_canceled",
        "save_canceled",
        "wakeup",
        "crashed",
        "postcopy",
        "postcopy_failed",
    ];
    const PAUSED: &[&str] = &[
        "unknown",
        "user",
        "migration",
        "save",
        "dump",
        "ioerror",
        "watchdog",
        "from_snapshot",
        "shutting_down",
        "snapshot",
        "crashed",
        "starting_up",
        "postcopy",
        "postcopy_failed",
        "api_error",
    ];
    const SHUT_OFF: &[&str] =
        &["unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from_snapshot", "daemon"];
    let word = |words: &[&str]| {
        let place = usize::try_from(reason).unwrap_or(usize::MAX);
        Some((*words.get(place).unwrap_or(&"unknown")).to_owned())
    };
    match state {
        virt_sys::VIR_DOMAIN_RUNNING => (VmState::Running, word(RUNNING)),
        virt_sys::VIR_DOMAIN_BLOCKED => (VmState::Running, Some("blocked".to_owned())),
        virt_sys::VIR_DOMAIN_PAUSED => (VmState::Paused, word(PAUSED)),
        virt_sys::VIR_DOMAIN_PMSUSPENDED => (VmState::Paused, Some("pmsuspended".to_owned())),
        virt_sys::VIR_DOMAIN_SHUTDOWN => (VmState::Running, Some("shutting_down".to_owned())),
        virt_sys::VIR_DOMAIN_SHUTOFF if saved => (VmState::Saved, Some("saved".to_owned())),
        virt_sys::VIR_DOMAIN_SHUTOFF => {
            let ended_badly =
                [virt_sys::VIR_DOMAIN_SHUTOFF_CRASHED, virt_sys::VIR_DOMAIN_SHUTOFF_FAILED].contains(&reason);
            (if ended_badly { VmState::Crashed } else { VmState::ShutOff }, word(SHUT_OFF))
        }
        virt_sys::VIR_DOMAIN_CRASHED => (VmState::Crashed, Some("crashed".to_owned())),
        _ => (VmState::Unknown, None),
    }
}
