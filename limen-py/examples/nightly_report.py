"""A report on all VMs, for a timer of systemd's or cron: which run, which need somebody.

    python nightly_report.py qemu:///system sqlite:///var/lib/limen/limen.db /var/lib/limen

Passive: it may run beside a server on the same Store, and changes nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from datetime import datetime, timedelta, timezone

import limen


def report(client: limen.Client) -> str:
    """The report as text."""
    vms = list(client.list_vms().all())
    states = Counter(vm.status.state.value for vm in vms)
    lines = [f"{len(vms)} VMs: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))]
    for host in client.list_hosts():
        used = sum(vm.spec.memory_mib for vm in vms if vm.spec is not None and vm.host == host.name)
        has = f" of {host.info.memory_mib}" if host.info is not None else ""
        lines.append(f"host {host.name}: {host.state}, {used}{has} MiB given to VMs")
    troubled = (limen.VmState.CRASHED, limen.VmState.MISSING)
    lines += [f"see to {vm.name}: it is {vm.status.state}" for vm in vms if vm.status.state in troubled]
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    failed = client.list_audit(outcome=limen.AuditOutcome.FAILED, since=yesterday)
    lines += [f"failed: {record.action} of {record.resource} by {record.actor.label}" for record in failed.all()]
    lines += [f"{finding.severity}: {finding.subject}: {finding.detail}" for finding in client.check().findings]
    return "\n".join(lines)


def main() -> int:
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    data_dir = sys.argv[3] if len(sys.argv) == 4 else None
    try:
        with limen.Client(sys.argv[1], sys.argv[2], data_dir=data_dir, passive=True) as client:
            print(report(client))
    except limen.LimenError as error:
        print(f"nightly_report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
