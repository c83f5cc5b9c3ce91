"""What differs between a home folder and the broker, beside what `check.check` compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_config.broker import cluster, revocation
from broker_config.broker.apply import foreign_passwords
from broker_config.broker.drift import Difference, check
from broker_config.broker.upgrade_hazards import hazards
from broker_config.declaration.topology import topology
from broker_config.home.marks import revoked, rotating
from broker_config.secrets.bundles import load_passwords, outdated_bundles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_config.broker.management_api import Management
    from broker_config.declaration.federation import Federation
    from broker_config.home.changes import Homes
    from broker_config.secrets.bundles import Address


def findings(
    homes: Homes, federation: Federation, address: Address, management: Management
) -> list[Difference]:
    """All that differs from what ``homes`` remember; empty when broker and bundles are as they say.

    Also what would lose messages in an upgrade of RabbitMQ, who has a client's rights or mailbox
    and is not enrolled, whose password on the broker is not the one kept, and bundles that are out
    of date.
    """
    declared = topology(federation)
    found = check(declared, management)
    if any(difference.kind == "vhost" for difference in found):
        return found
    found += cluster.findings(declared, management)
    passwords = load_passwords(homes.credentials)
    found += hazards(federation.name, management)
    found += _leftovers(homes, federation, management)
    unfinished = rotating(homes.credentials).names()
    for name in foreign_passwords(declared, management, passwords):
        hint = (
            f"`broker-config rotate {name}` was interrupted: repeat it"
            if name in unfinished
            else "`broker-config apply --reset-passwords`"
        )
        found.append(
            Difference("user", name, f"has another password than credentials.json: {hint}")
        )
    found += [
        Difference("bundle", path.name, "is out of date: `broker-config apply`, and hand it over")
        for path in outdated_bundles(homes.folder, federation, address, passwords)
    ]
    return found


def _leftovers(
    homes: Homes, federation: Federation, management: Management
) -> Iterator[Difference]:
    marked = revoked(homes.folder).names()
    left = set(revocation.with_access(federation.name, marked, management))
    for name in sorted(left | set(revocation.contributors(federation.name, management))):
        if name not in federation.revocable:
            why = "was revoked" if name in left else "is not enrolled"
            yield Difference(
                "user", name, f"{why}, and the broker has it: `broker-config revoke {name}`"
            )
