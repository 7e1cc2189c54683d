from __future__ import annotations

import msgspec
import pytest

from sim.collect import world_record
from sim.world import World


def test_the_record_of_a_world_has_its_kind_and_not_its_path() -> None:
    record = world_record(World("dicom:/data/DOE_JOHN", 4, "group", 8))
    assert (record.kind, record.partition, record.sites, record.phantom_patients) == ("dicom", "group", 4, None)
    assert "DOE" not in repr(record)


def test_phantoms_are_not_dealt() -> None:
    record = world_record(World(None, 3, "random", 8))
    assert (record.kind, record.partition, record.sites, record.phantom_patients) == ("phantom", None, 3, 8)


def test_a_kind_of_data_that_the_results_do_not_know_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value"):
        world_record(World("ftp:/data", 3))
