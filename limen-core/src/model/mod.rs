//! The nouns of LIMEN as plain values: no I/O, serde on all of them.
//!
//! A *record* is what the Store keeps; a *view* ([`Vm`]) is what a caller gets: record and live
//! status side by side.

mod audit;
mod console;
mod event;
mod event_view;
mod finding;
mod host;
mod id;
mod image;
mod operation;
mod page;
mod power;
mod quota;
mod restore;
mod sample;
mod seen;
mod user;
mod vm;
mod volume;

pub use audit::{AuditOutcome, AuditQuery, AuditRecord};
pub use console::{ConsoleKind, TicketHolder, TicketRecord};
pub use event::{Event, EventNumber, Fact};
pub use event_view::{EventKind, EventObject, EventView, HostObject, StatusObject, VmObject};
pub use finding::{CheckReport, Finding, FindingKind, Severity};
pub use host::{Address, Host, HostInfo, HostMetrics, HostRecord, HostSample, HostState, Network, VirtType};
pub use id::{HostId, ImageId, InstallId, OperationId, OwnerId, SessionId, TokenId, UserId, VmId, VolumeId};
pub use image::{Image, ImageFormat, ImagePhase};
pub use operation::{
    ActorRef, Journal, Operation, OperationError, OperationKind, OperationState, Progress, StepRecord, StepState,
};
pub use page::{Page, PageRequest};
pub use power::{PowerAction, Transition};
pub use quota::{Quota, UpdateQuota, Usage};
pub use restore::{Restore, Restored, RestoredVm, Witness};
pub use sample::{DiskSample, DiskStats, NicSample, NicStats, Traffic, VmSample};
pub use seen::{HostVm, Mark};
pub use user::{OwnerRecord, SessionRecord, Token, TokenRecord, User};
pub use vm::{
    CreateDisk, CreateVm, Disk, DiskMode, Firmware, Iso, Nic, ObservedSpec, Raised, UpdateVm, Vm, VmPhase, VmRecord,
    VmSpec, VmState, VmStatus,
};
pub use volume::{VolumeFormat, VolumeRecord};

/// 2^30 bytes.
pub const GIB: u64 = 1 << 30;
/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;
