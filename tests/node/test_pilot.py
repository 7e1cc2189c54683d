"""A node's folder from its operator's files: paths, and the encoder that a study may start from."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from fedsecure.errors import SettingsError
from fedsecure.node import membership
from fedsecure.node.membership import IDENTITY, accept, load_trust, update_trust
from fedsecure.node.pilot import lay_out_coordinator, lay_out_site, read_site
from fedsecure.node.store import Store
from keys import amend, keystore
from keys.edition import Reason
from sim.ceremony import enrol

OFF = "[security]\nsecagg = false\n"
SITES = f'sites = [{{name = "north", weight = 2}}]\n{OFF}'
ENCODER = b"weights"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folders = {name: tmp_path / name for name in ("hub", "north")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "study.toml").write_text(SITES)
    enrol(folders, "hub")
    return folders["hub"]


def test_paths_are_relative_to_the_file(hub: Path) -> None:
    north = hub.parent / "north"
    (north / "site.toml").write_text('coordinator = "tcp://hub:7443"\nsource = "folder:volumes"\ncache = "c"\n')
    file = read_site(north / "site.toml")
    assert (file.source, file.study, file.cache) == (
        f"folder:{north / 'volumes'}",
        str(north / "study.toml"),
        str(north / "c"),
    )
    assert lay_out_site(north, file).sites[0].name == "north"
    for written in ("study.json", "site.json", "run.json"):
        assert (north / written).exists()


def test_a_folder_goes_on_with_the_study_that_it_began(hub: Path) -> None:
    lay_out_coordinator(hub, hub / "study.toml")
    (hub / "study.toml").write_text(f"seed = 1\n{SITES}")
    lay_out_coordinator(hub, hub / "study.toml")  # nothing has begun
    Store(hub).close()
    (hub / "study.toml").write_text(f"seed = 2\n{SITES}")
    with pytest.raises(SettingsError, match="has begun another study, which differs in seed"):
        lay_out_coordinator(hub, hub / "study.toml")


def test_a_study_that_starts_from_an_encoder_is_given_that_one(hub: Path) -> None:
    digest = hashlib.sha256(ENCODER).hexdigest()
    study, file = hub / "study.toml", hub / "given"
    study.write_text(f'start = "encoder"\nencoder = "{digest}"\n{SITES}')
    with pytest.raises(SettingsError, match="name its file with --encoder"):
        lay_out_coordinator(hub, study)
    with pytest.raises(SettingsError, match="cannot read the encoder's file"):
        lay_out_coordinator(hub, study, file)
    file.write_bytes(b"other weights")
    with pytest.raises(SettingsError, match="not the one that the study names"):
        lay_out_coordinator(hub, study, file)
    assert not (hub / "study.json").exists()
    file.write_bytes(ENCODER)
    lay_out_coordinator(hub, study, file)
    assert (hub / "models/encoder.safetensors").read_bytes() == ENCODER
    lay_out_coordinator(hub, study)  # it has it


def test_a_study_that_has_begun_goes_on_without_a_site_that_was_revoked(tmp_path: Path) -> None:
    members = ", ".join(f'{{name = "{name}", weight = 2}}' for name in ("north", "south", "east"))
    text = f"sites = [{members}]\n{OFF}"
    folders = {name: tmp_path / name for name in ("hub", "north", "south", "east")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "study.toml").write_text(text)
    enrol(folders, "hub")
    for folder in folders.values():
        update_trust(folder, lambda trust: replace(trust, minimum=2))
    (folders["north"] / "site.toml").write_text('coordinator = "tcp://hub:7443"\nsource = "folder:volumes"\n')
    file = read_site(folders["north"] / "site.toml")
    edition = load_trust(folders["hub"]).accepted
    assert edition is not None
    following = amend.revoke(edition, "east", Reason.LEFT, edition.issued, membership.now())
    for site in following.sites:
        following = following.signed(site, keystore.load(folders[site] / IDENTITY))
    lay_out_coordinator(folders["hub"], folders["hub"] / "study.toml")
    lay_out_site(folders["north"], file)
    for name in ("hub", "north"):
        accept(folders[name], following)
    # Not begun: a study is agreed on by those who take part in it.
    with pytest.raises(SettingsError, match="the roster does not: east"):
        lay_out_coordinator(folders["hub"], folders["hub"] / "study.toml")
    for name in ("hub", "north"):
        Store(folders[name]).close()
    lay_out_coordinator(folders["hub"], folders["hub"] / "study.toml")
    lay_out_site(folders["north"], file)
