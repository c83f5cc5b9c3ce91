"""Which free place is nearest to one that is taken: for the line that refuses it."""

from contextlib import closing

from client_worker.settings import ClientSettings
from warren_shared.errors import BrokerRefused
from warren_shared.naming import fleet_member, mailbox, user_of
from warren_shared.service.broker_check import Inspection


def free_place(settings: ClientSettings) -> str | None:
    """The free place of the fleet nearest to the one that was asked for.

    None if there is none, or the broker does not let this user look.
    """
    if settings.place is None:
        return None
    fleet = user_of(settings.client or "")
    with closing(Inspection(settings.broker, f"client {settings.client}")) as inspection:
        list(inspection.reach())
        below, above = settings.place - 1, settings.place + 1
        is_end = not inspection.reached
        while inspection.reached and (below >= 0 or not is_end):
            for number in ([below] if below >= 0 else []) + ([] if is_end else [above]):
                try:
                    found = inspection.queue(mailbox(fleet_member(fleet, number)))
                except BrokerRefused:
                    return None
                if found is not None and not found[1]:
                    return fleet_member(fleet, number)
                is_end = is_end or (found is None and number == above)
            below, above = below - 1, above + 1
    return None
