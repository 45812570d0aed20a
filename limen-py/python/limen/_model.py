# Written by generate.py from the sources of limen-core. Do not edit: change those, and run it.
# mypy: disable-error-code="no-any-return"
"""The values of LIMEN: what it is asked with, and what it answers with."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from ._value import LimenError, Name, Value, time_of


class VmState(Name):
    """What a VM is doing."""

    CREATING = "creating"
    """Being created."""
    RUNNING = "running"
    """Running."""
    PAUSED = "paused"
    """Paused: in memory, vCPUs stopped."""
    SHUT_OFF = "shut_off"
    """Off."""
    SAVED = "saved"
    """Off, with its memory saved; the next start resumes it."""
    CRASHED = "crashed"
    """Its guest or its QEMU crashed."""
    MISSING = "missing"
    """Its definition has vanished from the host."""
    DELETING = "deleting"
    """Being deleted."""
    UNKNOWN = "unknown"
    """The host has not told yet."""


class VmPhase(Name):
    """Where a record is in its life."""

    CREATING = "creating"
    """Its `create_vm` is not finished."""
    DEFINED = "defined"
    """Its definition once succeeded."""
    DELETING = "deleting"
    """Its `delete_vm` is not finished."""


class Firmware(Name):
    """How a VM boots."""

    BIOS = "bios"
    """The classic PC BIOS."""
    UEFI = "uefi"
    """UEFI with an NVRAM of the VM's own."""


class DiskMode(Name):
    """How a disk that comes from an image gets its contents."""

    FULL = "full"
    """A full copy: independent of the image."""
    LINKED = "linked"
    """Copy-on-write (a linked clone): made at once, and the image cannot be deleted meanwhile."""


class VolumeFormat(Name):
    """The format of a volume or image. It is stored and passed on at every use, never probed."""

    QCOW2 = "qcow2"
    """QEMU's copy-on-write format."""
    RAW = "raw"
    """The bytes of the disk, nothing else."""


class ImageFormat(Name):
    """What an image's bytes are."""

    QCOW2 = "qcow2"
    """A disk in QEMU's copy-on-write format, without backing or data file."""
    RAW = "raw"
    """A disk, byte for byte."""
    ISO = "iso"
    """Installation media."""


class ImagePhase(Name):
    """Where an image is in its life."""

    ADDING = "adding"
    """Its `add_image` is not finished."""
    READY = "ready"
    """It can be used."""
    DELETING = "deleting"
    """Its `delete_image` is not finished."""


class PowerAction(Name):
    """What to do with a VM's power."""

    START = "start"
    """Power on, or resume from saved memory (`virDomainCreate`)."""
    SHUTDOWN = "shutdown"
    """Ask the guest to power off (ACPI, `virDomainShutdown`)."""
    POWER_OFF = "power_off"
    """Cut the power (`virDomainDestroy`)."""
    REBOOT = "reboot"
    """Ask the guest to reboot (`virDomainReboot`)."""
    RESET = "reset"
    """Press the reset button (`virDomainReset`)."""
    PAUSE = "pause"
    """Stop the vCPUs (`virDomainSuspend`)."""
    RESUME = "resume"
    """Run the vCPUs again (`virDomainResume`)."""
    SAVE = "save"
    """Write the memory to disk and power off (`virDomainManagedSave`)."""


class ConsoleKind(Name):
    """Which console of a VM."""

    VNC = "vnc"
    """The screen, as RFB (RFC 6143), already authenticated."""
    SERIAL = "serial"
    """The first serial port, as raw bytes."""


class OperationKind(Name):
    """What an operation does: the name of the method that starts it."""

    CREATE_VM = "create_vm"
    """Makes a VM."""
    DELETE_VM = "delete_vm"
    """Deletes a VM and its volumes."""
    CHANGE_POWER = "change_power"
    """Changes a VM's power."""
    UPDATE_VM = "update_vm"
    """Changes a VM's record and definition."""
    ADD_IMAGE = "add_image"
    """Adds an image."""
    DELETE_IMAGE = "delete_image"
    """Deletes an image and its copies on hosts."""


class OperationState(Name):
    """Where an operation is."""

    QUEUED = "queued"
    """Recorded; nothing has been done yet."""
    RUNNING = "running"
    """At work."""
    UNDOING = "undoing"
    """Taking back what it did; it is retried while the host is away."""
    HELD = "held"
    """The Store was restored from a copy of before: what the operation has done since is not known.
    It keeps its lock, and nothing is done until somebody resumes or abandons it.
    """
    SUCCEEDED = "succeeded"
    """Done."""
    FAILED = "failed"
    """Not done; nothing is left of it unless `error` says so."""
    CANCELLED = "cancelled"
    """Not done because somebody cancelled it, or another operation took its place."""


class EventKind(Name):
    """What an event is about. New kinds may be added."""

    VM = "vm"
    """A VM's record is new or changed."""
    VM_GONE = "vm_gone"
    """A VM is gone."""
    STATUS = "status"
    """A host shows a VM anew, or differently."""
    STATUS_GONE = "status_gone"
    """A host shows a VM no more."""
    OPERATION = "operation"
    """An operation is recorded, further, or finished."""
    IMAGE = "image"
    """An image is new or changed."""
    IMAGE_GONE = "image_gone"
    """An image is gone."""
    HOST = "host"
    """A host's record is new or changed."""
    USER = "user"
    """A user is new or changed."""
    USER_GONE = "user_gone"
    """A user is gone."""
    OWNER = "owner"
    """An owner is new."""
    OWNER_GONE = "owner_gone"
    """An owner is gone."""
    SESSION = "session"
    """Somebody logged in."""
    SESSION_GONE = "session_gone"
    """A session ended."""
    TOKEN = "token"
    """An API token was made."""
    TOKEN_GONE = "token_gone"
    """An API token is gone."""
    RESTORED = "restored"
    """The Store was restored from a copy of before."""


class HostState(Name):
    """Whether a host can be worked with."""

    UP = "up"
    """Observed within the last 5 seconds."""
    STALE = "stale"
    """Not observed for more than 5 seconds: its VMs are shown as last seen."""
    UNKNOWN = "unknown"
    """Never observed since this process started."""


class VirtType(Name):
    """How guests run on a host."""

    KVM = "kvm"
    """With hardware virtualization."""
    QEMU = "qemu"
    """By software emulation (TCG): correct, and many times slower."""
    TEST = "test"
    """Not at all: a simulator or libvirt's test driver."""


class Role(Name):
    """What a user may do, from most to least."""

    ADMIN = "admin"
    """Everything, on every object."""
    OPERATOR = "operator"
    """Sees and operates every VM (power, console); creates and deletes none but their own."""
    USER = "user"
    """Creates, changes and deletes their own VMs."""
    VIEWER = "viewer"
    """Reads their own VMs."""


class Action(Name):
    """What somebody wants to do: the name of a method."""

    LOGIN = "login"
    """Exchange name and password for a session."""
    LOGOUT = "logout"
    """End one's own session."""
    GET_ME = "get_me"
    """Read one's own user."""
    CHANGE_PASSWORD = "change_password"
    """Change one's own password."""
    LIST_USERS = "list_users"
    """List users."""
    GET_USER = "get_user"
    """Read a user."""
    CREATE_USER = "create_user"
    """Create a user."""
    UPDATE_USER = "update_user"
    """Change a user's role, password, disabled flag or limits."""
    DELETE_USER = "delete_user"
    """Delete a user."""
    CREATE_TOKEN = "create_token"
    """Make an API token of one's own."""
    LIST_TOKENS = "list_tokens"
    """List API tokens."""
    DELETE_TOKEN = "delete_token"
    """Delete an API token."""
    LIST_VMS = "list_vms"
    """List VMs."""
    GET_VM = "get_vm"
    """Read a VM."""
    GET_VM_STATS = "get_vm_stats"
    """Read a running VM's figures."""
    CREATE_VM = "create_vm"
    """Create a VM."""
    UPDATE_VM = "update_vm"
    """Change a VM's name, description, labels, autostart, vCPUs or memory."""
    DELETE_VM = "delete_vm"
    """Delete a VM and the volumes it owns."""
    CHANGE_POWER = "change_power"
    """Start, shut down, power off, reboot, reset, pause, resume or save a VM."""
    CREATE_TICKET = "create_ticket"
    """Make a ticket that opens a VM's console, once."""
    OPEN_CONSOLE = "open_console"
    """Open a VM's VNC or serial console."""
    LIST_IMAGES = "list_images"
    """List images."""
    GET_IMAGE = "get_image"
    """Read an image."""
    ADD_IMAGE = "add_image"
    """Add an image."""
    DELETE_IMAGE = "delete_image"
    """Delete an image."""
    LIST_HOSTS = "list_hosts"
    """List hosts."""
    GET_HOST_METRICS = "get_host_metrics"
    """Read a host's figures."""
    LIST_NETWORKS = "list_networks"
    """List a host's networks."""
    LIST_OPERATIONS = "list_operations"
    """List operations."""
    GET_OPERATION = "get_operation"
    """Read an operation."""
    CANCEL_OPERATION = "cancel_operation"
    """Cancel an operation."""
    RESUME_OPERATION = "resume_operation"
    """Let a held operation go on."""
    ABANDON_OPERATION = "abandon_operation"
    """Give a held operation up."""
    WATCH_EVENTS = "watch_events"
    """Follow the numbered events."""
    GET_QUOTA = "get_quota"
    """Read one's own quota and what is in use."""
    READ_AGENT = "read_agent"
    """Read what the host's agent tells, but for its figures, which anybody may."""
    GET_METRICS = "get_metrics"
    """Read the figures for monitoring."""
    LIST_AUDIT = "list_audit"
    """Read the audit."""
    CHECK = "check"
    """Compare Store, hosts, files and memory."""
    GET_RESTORED = "get_restored"
    """Read what is to be seen to after a restore of the Store."""
    NOTICE_RESTORE = "notice_restore"
    """Notice that the Store was restored: LIMEN itself, in the audit."""


class AuditOutcome(Name):
    """How an action went."""

    ACCEPTED = "accepted"
    """It was accepted and is being done: an operation was recorded."""
    SUCCEEDED = "succeeded"
    """It was done."""
    FAILED = "failed"
    """It was tried and not done."""
    CANCELLED = "cancelled"
    """It was cancelled."""
    REFUSED = "refused"
    """The actor may not do it: nothing was tried."""


class FindingKind(Name):
    """What does not agree. New kinds may be added."""

    HOST_UNREACHABLE = "host_unreachable"
    """A host did not answer: nothing on it was compared."""
    HOST_UNSERVED = "host_unserved"
    """The Store has VMs or unfinished operations of a host that this process is not configured with
    and that no other process owns.
    """
    VM_UNRECORDED = "vm_unrecorded"
    """A definition bears the mark of this installation and has no record."""
    VM_MISSING = "vm_missing"
    """A record's VM has no definition on its host."""
    VM_UNMARKED = "vm_unmarked"
    """A record's VM has a definition without the mark of this installation."""
    VM_HALF_MADE = "vm_half_made"
    """A record is `creating` or `deleting`, and no operation is at work on it."""
    STATUS_DIFFERS = "status_differs"
    """The Store shows another state of a VM than its host does, and the host's owner is alive."""
    VOLUME_UNRECORDED = "volume_unrecorded"
    """A volume of LIMEN's making in the pool has no row."""
    VOLUME_MISSING = "volume_missing"
    """A volume's row has no volume in the pool."""
    VOLUME_DIFFERS = "volume_differs"
    """A volume in the pool has another format or size than its row says."""
    VOLUME_UNOWNED = "volume_unowned"
    """A volume's row belongs to a VM that has no record."""
    VOLUME_UNFILLED = "volume_unfilled"
    """A volume was never filled to its end, and no operation is at work on it."""
    IMAGES_UNREADABLE = "images_unreadable"
    """The directory of images cannot be read: no image was compared."""
    IMAGE_MISSING = "image_missing"
    """An image's file is not in the directory of images."""
    IMAGE_DIFFERS = "image_differs"
    """An image's file has another length than its record says."""
    IMAGE_UNRECORDED = "image_unrecorded"
    """A file in the directory of images belongs to no image."""
    IMAGE_HALF_MADE = "image_half_made"
    """An image is `adding` or `deleting`, and no operation is at work on it."""
    UPLOAD_ABANDONED = "upload_abandoned"
    """A part of an image was received, and nothing more of it for an hour."""
    OPERATION_STUCK = "operation_stuck"
    """An unfinished operation has not moved for two minutes, though its host is there and owned."""
    OPERATION_HELD = "operation_held"
    """An operation is held since the Store was restored: somebody has to resume or abandon it."""
    OPERATION_UNLOCKED = "operation_unlocked"
    """An unfinished operation holds no lock."""
    LOCK_ORPHANED = "lock_orphaned"
    """A lock is held by no unfinished operation."""
    QUOTA_DIFFERS = "quota_differs"
    """What counts for an owner or a host is not the sum over the VMs, or a VM still counts for an
    update that is over.
    """
    INVENTORY_DIFFERS = "inventory_differs"
    """What this process shows is not what the Store says."""


class Severity(Name):
    """How much a `Finding` matters."""

    WARNING = "warning"
    """Something is left over or out of date; nothing is lost."""
    ERROR = "error"
    """Something is missing or stands still: somebody has to look at it."""


class ErrorKind(Name):
    """What went wrong, as a caller may act on it. New kinds may be added."""

    INVALID = "invalid"
    """An argument is outside its limits; `field` names it. Nothing was changed."""
    UNAUTHENTICATED = "unauthenticated"
    """Nobody is known to be asking: no token, or one that is no longer good."""
    FORBIDDEN = "forbidden"
    """The actor is known and may not do this."""
    NOT_FOUND = "not_found"
    """No such object, or one that the actor may not know of."""
    ALREADY_EXISTS = "already_exists"
    """The name or id is taken."""
    CONFLICT = "conflict"
    """The object is not in a state that allows this."""
    BUSY = "busy"
    """Another operation holds the object; `operation_id` names it."""
    QUOTA_EXCEEDED = "quota_exceeded"
    """The owner's quota does not allow it; `quota` has the figures."""
    GONE = "gone"
    """It was there and is kept no longer; `oldest` names what still is."""
    PRECONDITION_FAILED = "precondition_failed"
    """The object changed since the caller read it."""
    TOO_LARGE = "too_large"
    """The request is larger than allowed."""
    RATE_LIMITED = "rate_limited"
    """Too many requests; wait `retry_after`."""
    UNSUPPORTED = "unsupported"
    """This back end cannot do it."""
    UNAVAILABLE = "unavailable"
    """Store or host cannot be reached, or is overloaded; wait `retry_after`."""
    TIMEOUT = "timeout"
    """The deadline passed; the work may go on, its id is in `operation_id`."""
    NO_SPACE = "no_space"
    """The host or the Store has no space left for it."""
    INTERRUPTED = "interrupted"
    """The outcome of a call sent once is unknown: the process ended between call and record."""
    CANCELLED = "cancelled"
    """The operation was cancelled, or another one took its place."""
    ABANDONED = "abandoned"
    """The operation was held after a restore of the Store, and given up by hand."""
    INTERNAL = "internal"
    """A defect of LIMEN or an answer that it did not expect; the log has the cause."""


class Address(Value):
    """An address of a guest."""

    __slots__ = ()
    _fields = ("mac", "address", "source")

    @property
    def mac(self) -> str:
        """The NIC that has it."""
        return self._data["mac"]

    @property
    def address(self) -> str:
        """The address."""
        return self._data["address"]

    @property
    def source(self) -> str:
        """Who told: `lease`, `arp` or `guest_agent`."""
        return self._data["source"]


class Disk(Value):
    """A disk as attached to a VM."""

    __slots__ = ()
    _fields = ("volume", "format", "size_bytes", "image", "mode")

    @property
    def volume(self) -> str:
        """The volume behind it."""
        return self._data["volume"]

    @property
    def format(self) -> VolumeFormat:
        """The volume's format; it is never probed."""
        return VolumeFormat(self._data["format"])

    @property
    def size_bytes(self) -> int:
        """What the guest sees as the disk's size, in bytes."""
        return self._data["size_bytes"]

    @property
    def image(self) -> str | None:
        """The image that the disk was filled from."""
        return self._data.get("image")

    @property
    def mode(self) -> DiskMode:
        """How the image's contents got in; no meaning without an image."""
        return DiskMode(self._data["mode"])


class Iso(Value):
    """An ISO in a VM's drive."""

    __slots__ = ()
    _fields = ("image", "volume")

    @property
    def image(self) -> str:
        """The image."""
        return self._data["image"]

    @property
    def volume(self) -> str:
        """The image's volume on the VM's host."""
        return self._data["volume"]


class Nic(Value):
    """A network card of a VM."""

    __slots__ = ()
    _fields = ("mac", "network")

    @property
    def mac(self) -> str:
        """The card's address: locally administered, random, unique in the Store."""
        return self._data["mac"]

    @property
    def network(self) -> str:
        """The host's network by name."""
        return self._data["network"]


class VmSpec(Value):
    """The wanted hardware of a VM."""

    __slots__ = ()
    _fields = ("vcpus", "memory_mib", "firmware", "disks", "iso", "nics")

    @property
    def vcpus(self) -> int:
        """Virtual CPUs, 1 to 512."""
        return self._data["vcpus"]

    @property
    def memory_mib(self) -> int:
        """Memory in MiB, 16 to 16,777,216."""
        return self._data["memory_mib"]

    @property
    def firmware(self) -> Firmware:
        """How it boots."""
        return Firmware(self._data["firmware"])

    @property
    def disks(self) -> tuple[Disk, ...]:
        """Disks, in the order in which they are tried at boot."""
        return tuple([Disk._of(one) for one in self._data["disks"]])

    @property
    def iso(self) -> Iso | None:
        """The ISO in the drive; it boots after the disks."""
        return None if (it := self._data.get("iso")) is None else Iso._of(it)

    @property
    def nics(self) -> tuple[Nic, ...]:
        """Network cards."""
        return tuple([Nic._of(one) for one in self._data["nics"]])


class ObservedSpec(Value):
    """What a look at the host shows of the fields that LIMEN models."""

    __slots__ = ()
    _fields = ("vcpus", "memory_mib")

    @property
    def vcpus(self) -> int:
        """Virtual CPUs at the next boot."""
        return self._data["vcpus"]

    @property
    def memory_mib(self) -> int:
        """Memory at the next boot, in MiB."""
        return self._data["memory_mib"]


class VmStatus(Value):
    """A VM's live status, as the owner of its host last saw it."""

    __slots__ = ()
    _fields = ("state", "reason", "addresses", "observed_at", "stale")

    @property
    def state(self) -> VmState:
        """What the VM is doing."""
        return VmState(self._data["state"])

    @property
    def reason(self) -> str | None:
        """Why it came to this state, in libvirt's word for it: `booted`, `user`, `crashed`,
        `ioerror`, …
        """
        return self._data.get("reason")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The guest's addresses, as far as they are known."""
        return tuple([Address._of(one) for one in self._data["addresses"]])

    @property
    def observed_at(self) -> datetime | None:
        """When the VM's host was last observed in full."""
        return None if (it := self._data.get("observed_at")) is None else time_of(it)

    @property
    def stale(self) -> bool:
        """Whether that is more than 5 seconds ago: this is how the VM was last seen."""
        return self._data["stale"]


class Vm(Value):
    """A VM as callers see it: record and live status side by side.

    `observed_at` and `stale` are not here: they are the host's (see `Host`) and are added when a VM
    is rendered.
    """

    __slots__ = ()
    _fields = ("id", "name", "description", "host", "owner", "managed", "spec", "observed_spec",
        "labels", "autostart", "created_at", "updated_at", "operation", "status", "etag", "event")

    @property
    def id(self) -> str:
        """The VM."""
        return self._data["id"]

    @property
    def name(self) -> str:
        """Its name."""
        return self._data["name"]

    @property
    def description(self) -> str:
        """Free text."""
        return self._data["description"]

    @property
    def host(self) -> str:
        """The name of its host."""
        return self._data["host"]

    @property
    def owner(self) -> str | None:
        """Whose it is; none when LIMEN did not make it."""
        return self._data.get("owner")

    @property
    def managed(self) -> bool:
        """Whether LIMEN made it. One that it did not make can be seen by admins and changed by
        nobody.
        """
        return self._data["managed"]

    @property
    def spec(self) -> VmSpec | None:
        """The wanted hardware; none when LIMEN did not make it."""
        return None if (it := self._data.get("spec")) is None else VmSpec._of(it)

    @property
    def observed_spec(self) -> ObservedSpec | None:
        """What the host shows, where an outside edit made it differ from `spec`."""
        return None if (it := self._data.get("observed_spec")) is None else ObservedSpec._of(it)

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels."""
        return MappingProxyType(self._data["labels"])

    @property
    def autostart(self) -> bool:
        """Whether the host starts the VM when it boots."""
        return self._data["autostart"]

    @property
    def created_at(self) -> datetime | None:
        """When it was asked for; none when LIMEN did not make it."""
        return None if (it := self._data.get("created_at")) is None else time_of(it)

    @property
    def updated_at(self) -> datetime | None:
        """When the record last changed; none when LIMEN did not make it."""
        return None if (it := self._data.get("updated_at")) is None else time_of(it)

    @property
    def operation(self) -> str | None:
        """The operation at work on it."""
        return self._data.get("operation")

    @property
    def status(self) -> VmStatus:
        """The live status; rendered last."""
        return VmStatus._of(self._data["status"])

    @property
    def etag(self) -> str | None:
        """What `update_vm` and `delete_vm` take as `expected`; of `get_vm` alone."""
        return self._data.get("etag")

    @property
    def event(self) -> int | None:
        """The number of the event that it shows; of `get_vm` alone."""
        return self._data.get("event")


class CreateDisk(Value):
    """A disk to make: exactly one of `size_gib` alone (blank) or `image`."""

    __slots__ = ()
    _fields = ("size_gib", "image", "mode", "format")

    def __init__(
        self,
        *,
        size_gib: int | None = None,
        image: str | None = None,
        mode: DiskMode | None = None,
        format: VolumeFormat | None = None,
    ) -> None:
        self._give({"size_gib": size_gib, "image": image, "mode": mode, "format": format})

    @property
    def size_gib(self) -> int | None:
        """Size in GiB, 1 to 65,536; with an image it may only be larger than the image."""
        return self._data.get("size_gib")

    @property
    def image(self) -> str | None:
        """The image to fill it from (not an ISO)."""
        return self._data.get("image")

    @property
    def mode(self) -> DiskMode | None:
        """Full copy or copy-on-write; only with an image."""
        return None if (it := self._data.get("mode")) is None else DiskMode(it)

    @property
    def format(self) -> VolumeFormat | None:
        """The format of a blank disk, qcow2 when none is given; a copied one has its image's."""
        return None if (it := self._data.get("format")) is None else VolumeFormat(it)


class Image(Value):
    """An image, as kept and as seen."""

    __slots__ = ()
    _fields = ("id", "name", "format", "size_bytes", "capacity_bytes", "sha256", "phase", "version",
        "created_at")

    @property
    def id(self) -> str:
        """The image."""
        return self._data["id"]

    @property
    def name(self) -> str:
        """Its name, unique; the rules of a VM's name."""
        return self._data["name"]

    @property
    def format(self) -> ImageFormat:
        """What its bytes are."""
        return ImageFormat(self._data["format"])

    @property
    def size_bytes(self) -> int:
        """The length of its file in bytes."""
        return self._data["size_bytes"]

    @property
    def capacity_bytes(self) -> int:
        """What a guest sees as the size of a disk made from it, in bytes."""
        return self._data["capacity_bytes"]

    @property
    def sha256(self) -> str:
        """SHA-256 of its file, in hex."""
        return self._data["sha256"]

    @property
    def phase(self) -> ImagePhase:
        """Where it is in its life."""
        return ImagePhase(self._data["phase"])

    @property
    def version(self) -> int:
        """Rises by one with each change."""
        return self._data["version"]

    @property
    def created_at(self) -> datetime:
        """When it was added."""
        return time_of(self._data["created_at"])


class HostInfo(Value):
    """What a host has."""

    __slots__ = ()
    _fields = ("hostname", "hypervisor", "architecture", "cpus", "memory_mib", "virt_type",
        "free_bytes")

    @property
    def hostname(self) -> str:
        """The machine's name as its hypervisor tells it."""
        return self._data["hostname"]

    @property
    def hypervisor(self) -> str:
        """The hypervisor's name and version: `QEMU 7.2.22`."""
        return self._data["hypervisor"]

    @property
    def architecture(self) -> str:
        """The CPU architecture: `x86_64`."""
        return self._data["architecture"]

    @property
    def cpus(self) -> int:
        """Logical CPUs."""
        return self._data["cpus"]

    @property
    def memory_mib(self) -> int:
        """Memory in MiB."""
        return self._data["memory_mib"]

    @property
    def virt_type(self) -> VirtType:
        """How guests run."""
        return VirtType(self._data["virt_type"])

    @property
    def free_bytes(self) -> int:
        """Free bytes where LIMEN's volumes live."""
        return self._data["free_bytes"]


class HostMetrics(Value):
    """A host's figures at one moment."""

    __slots__ = ()
    _fields = ("sampled_at", "cpu_percent", "cpus", "memory_total_bytes", "memory_available_bytes",
        "uptime_seconds")

    @property
    def sampled_at(self) -> datetime:
        """When they were taken, by the clock of the machine that LIMEN runs on."""
        return time_of(self._data["sampled_at"])

    @property
    def cpu_percent(self) -> float:
        """CPU use of all CPUs since the sample before, 0 to 100."""
        return self._data["cpu_percent"]

    @property
    def cpus(self) -> int:
        """Logical CPUs."""
        return self._data["cpus"]

    @property
    def memory_total_bytes(self) -> int:
        """Memory in bytes."""
        return self._data["memory_total_bytes"]

    @property
    def memory_available_bytes(self) -> int:
        """Memory that programs could still get, in bytes."""
        return self._data["memory_available_bytes"]

    @property
    def uptime_seconds(self) -> int:
        """Seconds since the machine booted."""
        return self._data["uptime_seconds"]


class HostSample(Value):
    """A host's last figures, and how old they are."""

    __slots__ = ()
    _fields = ("host", "age_seconds", "stale", "sampled_at", "cpu_percent", "cpus",
        "memory_total_bytes", "memory_available_bytes", "uptime_seconds")

    @property
    def host(self) -> str:
        """The host's name."""
        return self._data["host"]

    @property
    def age_seconds(self) -> float:
        """How old the figures are, in seconds."""
        return self._data["age_seconds"]

    @property
    def stale(self) -> bool:
        """They are older than half a minute: where they come from does not answer, and they are the
        last that were had.
        """
        return self._data["stale"]

    @property
    def sampled_at(self) -> datetime:
        """When they were taken, by the clock of the machine that LIMEN runs on."""
        return time_of(self._data["sampled_at"])

    @property
    def cpu_percent(self) -> float:
        """CPU use of all CPUs since the sample before, 0 to 100."""
        return self._data["cpu_percent"]

    @property
    def cpus(self) -> int:
        """Logical CPUs."""
        return self._data["cpus"]

    @property
    def memory_total_bytes(self) -> int:
        """Memory in bytes."""
        return self._data["memory_total_bytes"]

    @property
    def memory_available_bytes(self) -> int:
        """Memory that programs could still get, in bytes."""
        return self._data["memory_available_bytes"]

    @property
    def uptime_seconds(self) -> int:
        """Seconds since the machine booted."""
        return self._data["uptime_seconds"]


class Traffic(Value):
    """Counters of one direction of a NIC."""

    __slots__ = ()
    _fields = ("bytes", "packets", "errors", "drops")

    @property
    def bytes(self) -> int:
        """Bytes."""
        return self._data["bytes"]

    @property
    def packets(self) -> int:
        """Packets."""
        return self._data["packets"]

    @property
    def errors(self) -> int:
        """Packets with errors."""
        return self._data["errors"]

    @property
    def drops(self) -> int:
        """Packets dropped."""
        return self._data["drops"]


class DiskSample(Value):
    """Figures of one disk."""

    __slots__ = ()
    _fields = ("device", "read_bytes", "read_requests", "written_bytes", "write_requests",
        "read_bytes_per_second", "written_bytes_per_second")

    @property
    def device(self) -> str:
        """The disk's name in the VM's definition: `vda`."""
        return self._data["device"]

    @property
    def read_bytes(self) -> int:
        """Bytes read."""
        return self._data["read_bytes"]

    @property
    def read_requests(self) -> int:
        """Requests to read."""
        return self._data["read_requests"]

    @property
    def written_bytes(self) -> int:
        """Bytes written."""
        return self._data["written_bytes"]

    @property
    def write_requests(self) -> int:
        """Requests to write."""
        return self._data["write_requests"]

    @property
    def read_bytes_per_second(self) -> float | None:
        """Bytes read in a second."""
        return self._data.get("read_bytes_per_second")

    @property
    def written_bytes_per_second(self) -> float | None:
        """Bytes written in a second."""
        return self._data.get("written_bytes_per_second")


class NicSample(Value):
    """Figures of one NIC."""

    __slots__ = ()
    _fields = ("device", "received", "sent", "received_bytes_per_second", "sent_bytes_per_second")

    @property
    def device(self) -> str:
        """The NIC's name on the host: `vnet0`."""
        return self._data["device"]

    @property
    def received(self) -> Traffic:
        """What the guest received."""
        return Traffic._of(self._data["received"])

    @property
    def sent(self) -> Traffic:
        """What the guest sent."""
        return Traffic._of(self._data["sent"])

    @property
    def received_bytes_per_second(self) -> float | None:
        """Bytes received in a second."""
        return self._data.get("received_bytes_per_second")

    @property
    def sent_bytes_per_second(self) -> float | None:
        """Bytes sent in a second."""
        return self._data.get("sent_bytes_per_second")


class VmSample(Value):
    """The last figures of a running VM, their rates, and how old they are. Counters rise from the
    VM's start; rates are over the time between the last two samples, and absent before the
    second.
    """

    __slots__ = ()
    _fields = ("vm_id", "sampled_at", "age_seconds", "stale", "cpu_time_seconds", "cpu_percent",
        "memory_mib", "memory_rss_mib", "memory_usable_mib", "disks", "nics")

    @property
    def vm_id(self) -> str:
        """The VM."""
        return self._data["vm_id"]

    @property
    def sampled_at(self) -> datetime:
        """When the counters were read, by the server's clock."""
        return time_of(self._data["sampled_at"])

    @property
    def age_seconds(self) -> float:
        """How old the figures are, in seconds."""
        return self._data["age_seconds"]

    @property
    def stale(self) -> bool:
        """The VM did not answer the last two times, or nobody asked: these are the last figures
        that were had.
        """
        return self._data["stale"]

    @property
    def cpu_time_seconds(self) -> float:
        """CPU time of the guest and its QEMU, in seconds."""
        return self._data["cpu_time_seconds"]

    @property
    def cpu_percent(self) -> float | None:
        """CPU use, in percent of one CPU: 200 is two CPUs at work."""
        return self._data.get("cpu_percent")

    @property
    def memory_mib(self) -> int:
        """Memory that the guest has now, in MiB (balloon)."""
        return self._data["memory_mib"]

    @property
    def memory_rss_mib(self) -> int:
        """Memory of its process on the host, in MiB."""
        return self._data["memory_rss_mib"]

    @property
    def memory_usable_mib(self) -> int | None:
        """Memory that programs of the guest could still get, in MiB, where its balloon driver
        tells.
        """
        return self._data.get("memory_usable_mib")

    @property
    def disks(self) -> tuple[DiskSample, ...]:
        """Its disks."""
        return tuple([DiskSample._of(one) for one in self._data["disks"]])

    @property
    def nics(self) -> tuple[NicSample, ...]:
        """Its NICs."""
        return tuple([NicSample._of(one) for one in self._data["nics"]])


class Host(Value):
    """A host as callers see it."""

    __slots__ = ()
    _fields = ("id", "name", "labels", "state", "observed_at", "owner", "info", "metrics")

    @property
    def id(self) -> str:
        """The host."""
        return self._data["id"]

    @property
    def name(self) -> str:
        """Its name."""
        return self._data["name"]

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels."""
        return MappingProxyType(self._data["labels"])

    @property
    def state(self) -> HostState:
        """Whether it can be worked with."""
        return HostState(self._data["state"])

    @property
    def observed_at(self) -> datetime | None:
        """When it was last observed in full."""
        return None if (it := self._data.get("observed_at")) is None else time_of(it)

    @property
    def owner(self) -> str | None:
        """The server that works on it, by the name that it bears in leases; none where no server
        has it, or none has been heard of yet. One that was killed is told for as long as its
        lease lasts.
        """
        return self._data.get("owner")

    @property
    def info(self) -> HostInfo | None:
        """What it has; none until it was reached once."""
        return None if (it := self._data.get("info")) is None else HostInfo._of(it)

    @property
    def metrics(self) -> HostMetrics | None:
        """Its figures, at most some seconds old; none where no source of them was given."""
        return None if (it := self._data.get("metrics")) is None else HostMetrics._of(it)


class HostHealth(Value):
    """One host's part of `Health`."""

    __slots__ = ()
    _fields = ("name", "state")

    @property
    def name(self) -> str:
        """The host's name."""
        return self._data["name"]

    @property
    def state(self) -> HostState:
        """Whether it can be worked with."""
        return HostState(self._data["state"])


class Health(Value):
    """Whether LIMEN can do its work. It tells nothing that a stranger may not know."""

    __slots__ = ()
    _fields = ("store", "hosts")

    @property
    def store(self) -> bool:
        """Whether the Store answered within a second, and takes this program's changes."""
        return self._data["store"]

    @property
    def hosts(self) -> tuple[HostHealth, ...]:
        """The hosts by name, and whether each can be worked with."""
        return tuple([HostHealth._of(one) for one in self._data["hosts"]])


class Network(Value):
    """A network of a host that NICs can be on."""

    __slots__ = ()
    _fields = ("host", "name", "active", "bridge")

    @property
    def host(self) -> str:
        """The host's name."""
        return self._data["host"]

    @property
    def name(self) -> str:
        """The network's name, unique on its host."""
        return self._data["name"]

    @property
    def active(self) -> bool:
        """Whether it is started."""
        return self._data["active"]

    @property
    def bridge(self) -> str | None:
        """The bridge behind it, where there is one."""
        return self._data.get("bridge")


class ActorRef(Value):
    """Who asked for an operation."""

    __slots__ = ()
    _fields = ("label", "user")

    @property
    def label(self) -> str:
        """`Actor::label`."""
        return self._data["label"]

    @property
    def user(self) -> str | None:
        """The user, where it was one."""
        return self._data.get("user")


class Progress(Value):
    """How far an operation is."""

    __slots__ = ()
    _fields = ("fraction", "bytes_done", "bytes_total")

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self._data["fraction"]

    @property
    def bytes_done(self) -> int | None:
        """Bytes written, where bytes are written."""
        return self._data.get("bytes_done")

    @property
    def bytes_total(self) -> int | None:
        """Bytes to write."""
        return self._data.get("bytes_total")


class QuotaFigures(Value):
    """The figures of a refused reservation."""

    __slots__ = ()
    _fields = ("resource", "limit", "used")

    @property
    def resource(self) -> str:
        """What ran out: `vms`, `vcpus`, `memory_mib`, `disk_gib` or `snapshots`."""
        return self._data["resource"]

    @property
    def limit(self) -> int:
        """The owner's limit, in the unit of the resource."""
        return self._data["limit"]

    @property
    def used(self) -> int:
        """What was in use when the call was refused, in the same unit."""
        return self._data["used"]


class OperationFailure(Value):
    """Why an operation did not succeed; what a problem document shows."""

    __slots__ = ()
    _fields = ("code", "detail", "field", "quota")

    @property
    def code(self) -> ErrorKind:
        """`ErrorKind::code`."""
        return ErrorKind(self._data["code"])

    @property
    def detail(self) -> str:
        """One sentence that any client may read."""
        return self._data["detail"]

    @property
    def field(self) -> str | None:
        """The argument that it is about."""
        return self._data.get("field")

    @property
    def quota(self) -> QuotaFigures | None:
        """The figures of a refused reservation."""
        return None if (it := self._data.get("quota")) is None else QuotaFigures._of(it)


class OperationRecord(Value):
    """An operation as callers see it."""

    __slots__ = ()
    _fields = ("id", "kind", "state", "host", "vm_id", "image_id", "owner", "actor", "request_id",
        "step", "progress", "cancel_requested", "error", "created_at", "finished_at")

    @property
    def id(self) -> str:
        """The operation."""
        return self._data["id"]

    @property
    def kind(self) -> OperationKind:
        """What it does."""
        return OperationKind(self._data["kind"])

    @property
    def state(self) -> OperationState:
        """Where it is."""
        return OperationState(self._data["state"])

    @property
    def host(self) -> str:
        """The host whose owner runs it."""
        return self._data["host"]

    @property
    def vm_id(self) -> str | None:
        """The VM that it is about."""
        return self._data.get("vm_id")

    @property
    def image_id(self) -> str | None:
        """The image that it is about."""
        return self._data.get("image_id")

    @property
    def owner(self) -> str | None:
        """Whose object it is about."""
        return self._data.get("owner")

    @property
    def actor(self) -> ActorRef:
        """Who asked."""
        return ActorRef._of(self._data["actor"])

    @property
    def request_id(self) -> str:
        """The request that it came with."""
        return self._data["request_id"]

    @property
    def step(self) -> str | None:
        """The step at work, or the last one."""
        return self._data.get("step")

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress._of(self._data["progress"])

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked to cancel it."""
        return self._data["cancel_requested"]

    @property
    def error(self) -> OperationFailure | None:
        """Why it did not succeed."""
        return None if (it := self._data.get("error")) is None else OperationFailure._of(it)

    @property
    def created_at(self) -> datetime:
        """When it was asked for."""
        return time_of(self._data["created_at"])

    @property
    def finished_at(self) -> datetime | None:
        """When it ended."""
        return None if (it := self._data.get("finished_at")) is None else time_of(it)


class Quota(Value):
    """An owner's limits, each 0 to 10^12; None is without limit."""

    __slots__ = ()
    _fields = ("vms", "vcpus", "memory_mib", "disk_gib", "snapshots")

    def __init__(
        self,
        *,
        vms: int | None = None,
        vcpus: int | None = None,
        memory_mib: int | None = None,
        disk_gib: int | None = None,
        snapshots: int | None = None,
    ) -> None:
        self._give({"vms": vms, "vcpus": vcpus, "memory_mib": memory_mib, "disk_gib": disk_gib,
            "snapshots": snapshots})

    @property
    def vms(self) -> int | None:
        """VMs."""
        return self._data.get("vms")

    @property
    def vcpus(self) -> int | None:
        """Virtual CPUs of all VMs, running or not."""
        return self._data.get("vcpus")

    @property
    def memory_mib(self) -> int | None:
        """Memory of all VMs, running or not, in MiB."""
        return self._data.get("memory_mib")

    @property
    def disk_gib(self) -> int | None:
        """What the disks of all VMs may grow to, each rounded up to whole GiB."""
        return self._data.get("disk_gib")

    @property
    def snapshots(self) -> int | None:
        """Snapshots."""
        return self._data.get("snapshots")


class Usage(Value):
    """What VMs come to, in the units of `Quota`."""

    __slots__ = ()
    _fields = ("vms", "vcpus", "memory_mib", "disk_gib", "snapshots")

    @property
    def vms(self) -> int:
        """VMs."""
        return self._data["vms"]

    @property
    def vcpus(self) -> int:
        """Virtual CPUs of all VMs, running or not."""
        return self._data["vcpus"]

    @property
    def memory_mib(self) -> int:
        """Memory of all VMs, running or not, in MiB."""
        return self._data["memory_mib"]

    @property
    def disk_gib(self) -> int:
        """What the disks of all VMs may grow to, each rounded up to whole GiB."""
        return self._data["disk_gib"]

    @property
    def snapshots(self) -> int:
        """Snapshots."""
        return self._data["snapshots"]


class QuotaView(Value):
    """An owner's limits, and what is in use."""

    __slots__ = ()
    _fields = ("limits", "used")

    @property
    def limits(self) -> Quota:
        """What the owner may have at most."""
        return Quota._of(self._data["limits"])

    @property
    def used(self) -> Usage:
        """What the owner's VMs come to, those being made and deleted too."""
        return Usage._of(self._data["used"])


class _User(Value):
    """Somebody who may log in. The password's hash is not part of it."""

    __slots__ = ()
    _fields = ("id", "name", "role", "disabled", "owner", "version", "created_at")

    @property
    def id(self) -> str:
        """The user."""
        return self._data["id"]

    @property
    def name(self) -> str:
        """The login name, unique: letters, digits, `.`, `_`, `-`; 1 to 63 characters."""
        return self._data["name"]

    @property
    def role(self) -> Role:
        """What the user may do."""
        return Role(self._data["role"])

    @property
    def disabled(self) -> bool:
        """A disabled user has no session and cannot log in."""
        return self._data["disabled"]

    @property
    def owner(self) -> str:
        """The owner whose objects are the user's own."""
        return self._data["owner"]

    @property
    def version(self) -> int:
        """Rises by one with each change."""
        return self._data["version"]

    @property
    def created_at(self) -> datetime:
        """When the user was made."""
        return time_of(self._data["created_at"])


class User(Value):
    """A user as admins see it."""

    __slots__ = ()
    _fields = ("id", "name", "role", "disabled", "owner", "version", "created_at", "quota")

    @property
    def id(self) -> str:
        """The user."""
        return self._data["id"]

    @property
    def name(self) -> str:
        """The login name, unique: letters, digits, `.`, `_`, `-`; 1 to 63 characters."""
        return self._data["name"]

    @property
    def role(self) -> Role:
        """What the user may do."""
        return Role(self._data["role"])

    @property
    def disabled(self) -> bool:
        """A disabled user has no session and cannot log in."""
        return self._data["disabled"]

    @property
    def owner(self) -> str:
        """The owner whose objects are the user's own."""
        return self._data["owner"]

    @property
    def version(self) -> int:
        """Rises by one with each change."""
        return self._data["version"]

    @property
    def created_at(self) -> datetime:
        """When the user was made."""
        return time_of(self._data["created_at"])

    @property
    def quota(self) -> Quota:
        """What the user's owner may have at most."""
        return Quota._of(self._data["quota"])


class Token(Value):
    """An API token: a user's, for a program. The secret itself is shown once, and kept nowhere."""

    __slots__ = ()
    _fields = ("id", "user", "name", "role", "vm", "created_at", "expires_at")

    @property
    def id(self) -> str:
        """The token."""
        return self._data["id"]

    @property
    def user(self) -> str:
        """Whose it is."""
        return self._data["user"]

    @property
    def name(self) -> str:
        """What it is called, unique among the user's tokens: the rules of a VM's name."""
        return self._data["name"]

    @property
    def role(self) -> Role:
        """What it may do at most; never more than its user may at the time."""
        return Role(self._data["role"])

    @property
    def vm(self) -> str | None:
        """The one VM that it is for; none for all that its user sees."""
        return self._data.get("vm")

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        return time_of(self._data["created_at"])

    @property
    def expires_at(self) -> datetime | None:
        """When it ends by itself; none for never."""
        return None if (it := self._data.get("expires_at")) is None else time_of(it)


class EventVm(Value):
    """A VM's record: what `Vm` shows but for the status, which has events of its own."""

    __slots__ = ()
    _fields = ("name", "description", "host", "spec", "labels", "autostart", "phase", "created_at",
        "updated_at")

    @property
    def name(self) -> str:
        """Its name."""
        return self._data["name"]

    @property
    def description(self) -> str:
        """Free text."""
        return self._data["description"]

    @property
    def host(self) -> str:
        """The name of its host."""
        return self._data["host"]

    @property
    def spec(self) -> VmSpec:
        """The wanted hardware."""
        return VmSpec._of(self._data["spec"])

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels."""
        return MappingProxyType(self._data["labels"])

    @property
    def autostart(self) -> bool:
        """Whether the host shall start it when it boots."""
        return self._data["autostart"]

    @property
    def phase(self) -> VmPhase:
        """`creating` or `deleting` is what the VM's state is for as long as this is; else its state
        is its status', and `missing` while there is none.
        """
        return VmPhase(self._data["phase"])

    @property
    def created_at(self) -> datetime:
        """When it was asked for."""
        return time_of(self._data["created_at"])

    @property
    def updated_at(self) -> datetime:
        """When the record last changed."""
        return time_of(self._data["updated_at"])


class EventStatus(Value):
    """What a host shows of a VM."""

    __slots__ = ()
    _fields = ("host", "name", "state", "reason", "addresses", "autostart", "vcpus", "memory_mib")

    @property
    def host(self) -> str:
        """The name of the host."""
        return self._data["host"]

    @property
    def name(self) -> str | None:
        """What the definition is called, where LIMEN has no record of the VM."""
        return self._data.get("name")

    @property
    def state(self) -> VmState:
        """Running, paused, shut_off, saved, crashed or unknown."""
        return VmState(self._data["state"])

    @property
    def reason(self) -> str | None:
        """Why it came to this state."""
        return self._data.get("reason")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The guest's addresses, as far as they are known."""
        return tuple([Address._of(one) for one in self._data["addresses"]])

    @property
    def autostart(self) -> bool:
        """Whether the host starts it when it boots."""
        return self._data["autostart"]

    @property
    def vcpus(self) -> int:
        """Virtual CPUs at the next boot."""
        return self._data["vcpus"]

    @property
    def memory_mib(self) -> int:
        """Memory at the next boot, in MiB."""
        return self._data["memory_mib"]


class EventHost(Value):
    """A host's record."""

    __slots__ = ()
    _fields = ("name", "labels")

    @property
    def name(self) -> str:
        """Its name."""
        return self._data["name"]

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels."""
        return MappingProxyType(self._data["labels"])


class Event(Value):
    """One event as a caller may see it."""

    __slots__ = ()
    _fields = ("number", "at", "kind", "id", "owner", "operation", "object")

    @property
    def number(self) -> int:
        """Its number in the log."""
        return self._data["number"]

    @property
    def at(self) -> datetime:
        """When it was recorded."""
        return time_of(self._data["at"])

    @property
    def kind(self) -> EventKind:
        """What it is about."""
        return EventKind(self._data["kind"])

    @property
    def id(self) -> str:
        """The object that it is about."""
        return self._data["id"]

    @property
    def owner(self) -> str | None:
        """Whose object that is; none for what belongs to nobody in particular."""
        return self._data.get("owner")

    @property
    def operation(self) -> str | None:
        """The operation that made the change; none for one seen from outside."""
        return self._data.get("operation")

    @property
    def object(self) -> EventVm | EventStatus | OperationRecord | Image | EventHost | None:
        """How the object is from now on. None for what is gone, and for users, owners, sessions and
        tokens: of them only the id is told.
        """
        return None if (it := self._data.get("object")) is None else event_object(self._data, it)


class AuditRecord(Value):
    """One line of the audit. Records are only ever added."""

    __slots__ = ()
    _fields = ("id", "at", "count", "last_at", "actor", "origin", "request_id", "action",
        "resource", "outcome", "operation", "detail")

    @property
    def id(self) -> str:
        """The record, as `id_at` makes it of `at`: so ordered by time."""
        return self._data["id"]

    @property
    def at(self) -> datetime:
        """When; of a refusal that was repeated, when it was first."""
        return time_of(self._data["at"])

    @property
    def count(self) -> int:
        """How often. Only refusals are folded into one record: all else is 1."""
        return self._data["count"]

    @property
    def last_at(self) -> datetime | None:
        """When it was last, where it was more than once."""
        return None if (it := self._data.get("last_at")) is None else time_of(it)

    @property
    def actor(self) -> ActorRef:
        """Who."""
        return ActorRef._of(self._data["actor"])

    @property
    def origin(self) -> str | None:
        """From where; of what was repeated, the first time."""
        return self._data.get("origin")

    @property
    def request_id(self) -> str:
        """Under which request id; of what was repeated, the first one."""
        return self._data["request_id"]

    @property
    def action(self) -> Action:
        """What."""
        return Action(self._data["action"])

    @property
    def resource(self) -> str:
        """On what: `vm:<id>`, `user:<id>`, …; the kind alone (`vm`) where it was no single thing.
        """
        return self._data["resource"]

    @property
    def outcome(self) -> AuditOutcome:
        """How it went."""
        return AuditOutcome(self._data["outcome"])

    @property
    def operation(self) -> str | None:
        """The operation that does it."""
        return self._data.get("operation")

    @property
    def detail(self) -> str | None:
        """A word on it: the power action, the error's code, why it was refused."""
        return self._data.get("detail")


class Finding(Value):
    """One disagreement."""

    __slots__ = ()
    _fields = ("kind", "severity", "subject", "host", "detail")

    @property
    def kind(self) -> FindingKind:
        """What does not agree."""
        return FindingKind(self._data["kind"])

    @property
    def severity(self) -> Severity:
        """How much it matters: `severity`."""
        return Severity(self._data["severity"])

    @property
    def subject(self) -> str:
        """What it is about: `vm:<id>`, `volume:<id>`, `image:<id>`, `operation:<id>`, `host:<id>`,
        `file:<name>`, `directory:images`, …
        """
        return self._data["subject"]

    @property
    def host(self) -> str | None:
        """The name of the host that it is on, where it is on one."""
        return self._data.get("host")

    @property
    def detail(self) -> str:
        """One sentence that any client may read."""
        return self._data["detail"]


class CheckReport(Value):
    """What a check came to."""

    __slots__ = ()
    _fields = ("checked_at", "hosts", "findings")

    @property
    def checked_at(self) -> datetime:
        """When it was made."""
        return time_of(self._data["checked_at"])

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the hosts that were compared."""
        return tuple([one for one in self._data["hosts"]])

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every disagreement, by kind and subject; none when all agrees."""
        return tuple([Finding._of(one) for one in self._data["findings"]])


class Restore(Value):
    """One time that the Store was found to be older than a host knew it."""

    __slots__ = ()
    _fields = ("epoch", "noticed_at", "host", "store_event", "store_event_at", "host_event",
        "host_event_at", "kept_event", "next_event", "operations_held", "sessions_ended")

    @property
    def epoch(self) -> int:
        """The epoch that began with it."""
        return self._data["epoch"]

    @property
    def noticed_at(self) -> datetime:
        """When it was noticed."""
        return time_of(self._data["noticed_at"])

    @property
    def host(self) -> str:
        """The name of the host whose memory told it."""
        return self._data["host"]

    @property
    def store_event(self) -> int:
        """The last event that the Store had."""
        return self._data["store_event"]

    @property
    def store_event_at(self) -> datetime | None:
        """When that was recorded; none where it is kept no longer."""
        return None if (it := self._data.get("store_event_at")) is None else time_of(it)

    @property
    def host_event(self) -> int:
        """The last event that the host knows of."""
        return self._data["host_event"]

    @property
    def host_event_at(self) -> datetime | None:
        """When that was recorded."""
        return None if (it := self._data.get("host_event_at")) is None else time_of(it)

    @property
    def kept_event(self) -> int:
        """Events after this number and before `next_event` belong to the time that was lost."""
        return self._data["kept_event"]

    @property
    def next_event(self) -> int:
        """Events have numbers from this one on since: none is given out twice."""
        return self._data["next_event"]

    @property
    def operations_held(self) -> int:
        """How many operations were held."""
        return self._data["operations_held"]

    @property
    def sessions_ended(self) -> int:
        """How many sessions were ended."""
        return self._data["sessions_ended"]


class RestoredVm(Value):
    """A VM that Store and host do not agree about."""

    __slots__ = ()
    _fields = ("id", "name", "host")

    @property
    def id(self) -> str:
        """The VM."""
        return self._data["id"]

    @property
    def name(self) -> str:
        """Its name; that of its definition where there is no record."""
        return self._data["name"]

    @property
    def host(self) -> str:
        """The name of its host."""
        return self._data["host"]


class Restored(Value):
    """What is to be seen to after a restore."""

    __slots__ = ()
    _fields = ("restores", "held", "unrecorded", "missing")

    @property
    def restores(self) -> tuple[Restore, ...]:
        """Every restore that was noticed, the newest first; none where the Store never was."""
        return tuple([Restore._of(one) for one in self._data["restores"]])

    @property
    def held(self) -> tuple[OperationRecord, ...]:
        """The operations that are held: each is to be resumed or abandoned."""
        return tuple([OperationRecord._of(one) for one in self._data["held"]])

    @property
    def unrecorded(self) -> tuple[RestoredVm, ...]:
        """VMs of this installation's making that hosts have and the Store does not."""
        return tuple([RestoredVm._of(one) for one in self._data["unrecorded"]])

    @property
    def missing(self) -> tuple[RestoredVm, ...]:
        """VMs that the Store has and their hosts have not."""
        return tuple([RestoredVm._of(one) for one in self._data["missing"]])


class Refusals(Value):
    """How often somebody was refused, since this process began: for metrics."""

    __slots__ = ()
    _fields = ("known", "dropped", "records", "unknown")

    @property
    def known(self) -> int:
        """Refusals of actors who are known: by policy, by quota, for a wrong password of their own.
        """
        return self._data["known"]

    @property
    def dropped(self) -> int:
        """Those of them for whom there was no room: they are in no record of the audit."""
        return self._data["dropped"]

    @property
    def records(self) -> int:
        """Records that were written of them."""
        return self._data["records"]

    @property
    def unknown(self) -> int:
        """Refusals of nobody who is known: no token, a bad one, a login that failed."""
        return self._data["unknown"]


class Durations(Value):
    """A `Histogram` as it is at one moment."""

    __slots__ = ()
    _fields = ("at_most", "count", "sum")

    @property
    def at_most(self) -> tuple[tuple[float, int], ...]:
        """For each bound in seconds, how many durations were at most so long."""
        return tuple([(one[0], one[1]) for one in self._data["at_most"]])

    @property
    def count(self) -> int:
        """How many durations there are."""
        return self._data["count"]

    @property
    def sum(self) -> float:
        """What they come to; in JSON, in seconds."""
        return self._data["sum"]


class HostFigures(Value):
    """A host's part of `Figures`."""

    __slots__ = ()
    _fields = ("name", "state", "observation_age")

    @property
    def name(self) -> str:
        """The host's name."""
        return self._data["name"]

    @property
    def state(self) -> HostState:
        """Whether it can be worked with."""
        return HostState(self._data["state"])

    @property
    def observation_age(self) -> float | None:
        """How long ago it was last observed in full; none before the first time. In JSON, in
        seconds.
        """
        return self._data.get("observation_age")


class OperationFigures(Value):
    """Operations of one kind."""

    __slots__ = ()
    _fields = ("kind", "started", "ended", "durations", "unfinished")

    @property
    def kind(self) -> OperationKind:
        """The kind."""
        return OperationKind(self._data["kind"])

    @property
    def started(self) -> int:
        """How many this process recorded."""
        return self._data["started"]

    @property
    def ended(self) -> tuple[tuple[OperationState, int], ...]:
        """How many this process, as the owner of their host, brought to each end. One whose undo
        was opened again for a late effect ends once more.
        """
        return tuple([(OperationState(one[0]), one[1]) for one in self._data["ended"]])

    @property
    def durations(self) -> Durations:
        """From the request to the end, of those that this process brought to one."""
        return Durations._of(self._data["durations"])

    @property
    def unfinished(self) -> tuple[tuple[OperationState, int], ...]:
        """How many there are now that have not ended, whoever works on them, by where they are."""
        return tuple([(OperationState(one[0]), one[1]) for one in self._data["unfinished"]])


class OwnerFigures(Value):
    """An owner's limits and use."""

    __slots__ = ()
    _fields = ("name", "limits", "used")

    @property
    def name(self) -> str:
        """The owner's name."""
        return self._data["name"]

    @property
    def limits(self) -> Quota:
        """What the owner may have at most."""
        return Quota._of(self._data["limits"])

    @property
    def used(self) -> Usage:
        """What the owner's VMs come to."""
        return Usage._of(self._data["used"])


class Figures(Value):
    """Figures for monitoring: `get_metrics`."""

    __slots__ = ()
    _fields = ("vms", "hosts", "operations", "event_lag", "refusals", "owners")

    @property
    def vms(self) -> tuple[tuple[VmState, int], ...]:
        """How many VMs are in each state, those that LIMEN did not make among them; every state is
        there.
        """
        return tuple([(VmState(one[0]), one[1]) for one in self._data["vms"]])

    @property
    def hosts(self) -> tuple[HostFigures, ...]:
        """The hosts of this process."""
        return tuple([HostFigures._of(one) for one in self._data["hosts"]])

    @property
    def operations(self) -> tuple[OperationFigures, ...]:
        """The operations; every kind is there."""
        return tuple([OperationFigures._of(one) for one in self._data["operations"]])

    @property
    def event_lag(self) -> float:
        """How long ago this process had last read everything of the event log; in JSON, in seconds.
        """
        return self._data["event_lag"]

    @property
    def refusals(self) -> Refusals:
        """Who was refused."""
        return Refusals._of(self._data["refusals"])

    @property
    def owners(self) -> tuple[OwnerFigures, ...]:
        """Limits and use of the owners that the actor may know of: their own; all for whoever may
        list users; none for anybody else.
        """
        return tuple([OwnerFigures._of(one) for one in self._data["owners"]])


def event_object(event: dict[str, Any], data: dict[str, Any]) -> Any:
    """The object of an event, by the event's kind."""
    kinds: dict[str, type[Value]] = {
        "vm": EventVm,
        "status": EventStatus,
        "operation": OperationRecord,
        "image": Image,
        "host": EventHost,
    }
    return kinds.get(event["kind"], Value)._of(data)


# One class of exceptions for each kind of error.


class InvalidError(LimenError, ValueError):
    """An argument is outside its limits; `field` names it. Nothing was changed."""

    kind = "invalid"


class UnauthenticatedError(LimenError):
    """Nobody is known to be asking: no token, or one that is no longer good."""

    kind = "unauthenticated"


class ForbiddenError(LimenError):
    """The actor is known and may not do this."""

    kind = "forbidden"


class NotFoundError(LimenError):
    """No such object, or one that the actor may not know of."""

    kind = "not_found"


class AlreadyExistsError(LimenError):
    """The name or id is taken."""

    kind = "already_exists"


class ConflictError(LimenError):
    """The object is not in a state that allows this."""

    kind = "conflict"


class BusyError(LimenError):
    """Another operation holds the object; `operation_id` names it."""

    kind = "busy"
    is_retryable = True


class QuotaExceededError(LimenError):
    """The owner's quota does not allow it; `quota` has the figures."""

    kind = "quota_exceeded"


class GoneError(LimenError):
    """It was there and is kept no longer; `oldest` names what still is."""

    kind = "gone"


class PreconditionFailedError(LimenError):
    """The object changed since the caller read it."""

    kind = "precondition_failed"


class TooLargeError(LimenError):
    """The request is larger than allowed."""

    kind = "too_large"


class RateLimitedError(LimenError):
    """Too many requests; wait `retry_after`."""

    kind = "rate_limited"
    is_retryable = True


class UnsupportedError(LimenError):
    """This back end cannot do it."""

    kind = "unsupported"


class UnavailableError(LimenError):
    """Store or host cannot be reached, or is overloaded; wait `retry_after`."""

    kind = "unavailable"
    is_retryable = True


class TimeoutError(LimenError, builtins.TimeoutError):
    """The deadline passed; the work may go on, its id is in `operation_id`."""

    kind = "timeout"
    is_retryable = True


class NoSpaceError(LimenError):
    """The host or the Store has no space left for it."""

    kind = "no_space"


class InterruptedError(LimenError):
    """The outcome of a call sent once is unknown: the process ended between call and record."""

    kind = "interrupted"


class CancelledError(LimenError):
    """The operation was cancelled, or another one took its place."""

    kind = "cancelled"


class AbandonedError(LimenError):
    """The operation was held after a restore of the Store, and given up by hand."""

    kind = "abandoned"


class InternalError(LimenError):
    """A defect of LIMEN or an answer that it did not expect; the log has the cause."""

    kind = "internal"


ERRORS: dict[str, type[LimenError]] = {
    "invalid": InvalidError,
    "unauthenticated": UnauthenticatedError,
    "forbidden": ForbiddenError,
    "not_found": NotFoundError,
    "already_exists": AlreadyExistsError,
    "conflict": ConflictError,
    "busy": BusyError,
    "quota_exceeded": QuotaExceededError,
    "gone": GoneError,
    "precondition_failed": PreconditionFailedError,
    "too_large": TooLargeError,
    "rate_limited": RateLimitedError,
    "unsupported": UnsupportedError,
    "unavailable": UnavailableError,
    "timeout": TimeoutError,
    "no_space": NoSpaceError,
    "interrupted": InterruptedError,
    "cancelled": CancelledError,
    "abandoned": AbandonedError,
    "internal": InternalError,
}


__all__ = [
    "AbandonedError",
    "Action",
    "ActorRef",
    "Address",
    "AlreadyExistsError",
    "AuditOutcome",
    "AuditRecord",
    "BusyError",
    "CancelledError",
    "CheckReport",
    "ConflictError",
    "ConsoleKind",
    "CreateDisk",
    "Disk",
    "DiskMode",
    "DiskSample",
    "Durations",
    "ErrorKind",
    "Event",
    "EventHost",
    "EventKind",
    "EventStatus",
    "EventVm",
    "Figures",
    "Finding",
    "FindingKind",
    "Firmware",
    "ForbiddenError",
    "GoneError",
    "Health",
    "Host",
    "HostFigures",
    "HostHealth",
    "HostInfo",
    "HostMetrics",
    "HostSample",
    "HostState",
    "Image",
    "ImageFormat",
    "ImagePhase",
    "InternalError",
    "InterruptedError",
    "InvalidError",
    "Iso",
    "Network",
    "Nic",
    "NicSample",
    "NoSpaceError",
    "NotFoundError",
    "ObservedSpec",
    "OperationFailure",
    "OperationFigures",
    "OperationKind",
    "OperationRecord",
    "OperationState",
    "OwnerFigures",
    "PowerAction",
    "PreconditionFailedError",
    "Progress",
    "Quota",
    "QuotaExceededError",
    "QuotaFigures",
    "QuotaView",
    "RateLimitedError",
    "Refusals",
    "Restore",
    "Restored",
    "RestoredVm",
    "Role",
    "Severity",
    "TimeoutError",
    "Token",
    "TooLargeError",
    "Traffic",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "Usage",
    "User",
    "VirtType",
    "Vm",
    "VmPhase",
    "VmSample",
    "VmSpec",
    "VmState",
    "VmStatus",
    "VolumeFormat",
]
