"""The plugin for pytest: the fixture `limen_sim`, a simulated host with LIMEN over it.

    def test_that_a_full_disk_is_told(limen_sim):
        limen_sim.inject(Fault.no_space(), method="create_volume")
        ...

    @pytest.mark.limen_sim(vms=3, seed=7)
    def test_with_three_vms(limen_sim):
        ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import Simulator


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "limen_sim(vms=0, seed=0, ...): what the fixture limen_sim begins with")


@pytest.fixture
def limen_sim(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """A `limen.testing.Simulator` of this test's own: `limen_sim.client` is a `limen.Client`."""
    from .testing import Simulator

    marker = request.node.get_closest_marker("limen_sim")
    with Simulator(**(marker.kwargs if marker else {})) as simulator:
        yield simulator
