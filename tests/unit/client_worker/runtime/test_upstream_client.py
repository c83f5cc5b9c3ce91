"""A region as a client of the federation above."""

from pathlib import Path

import pytest

from client_worker.runtime.upstream_client import settings_above
from coordinator_worker.settings import CoordinatorSettings


@pytest.mark.parametrize(("told", "spares"), [("WARREN_SPARE_MAILBOXES=true\n", True), ("", False)])
def test_the_bundle_says_whether_the_mailbox_above_has_a_spare(
    tmp_path: Path, told: str, spares: bool
) -> None:
    """And not the environment, which is about the federation below."""
    bundle = tmp_path / "region.env"
    bundle.write_text(f"WARREN_BROKER_URL=amqp://region:x@above/root\n{told}")
    below = CoordinatorSettings(
        broker_url="amqp://coordinator:x@below/region", quorum=1, spare_mailboxes=not spares
    )
    assert settings_above(bundle, below).spare_mailboxes is spares
