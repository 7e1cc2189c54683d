from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from keys import keystore
from keys.errors import IdentityError
from keys.identity import Identity

IDENTITY = Identity.generate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "st-mary-cardiology" / "identity"


@pytest.fixture
def saved(path: Path) -> Path:
    path.parent.mkdir()
    keystore.save(IDENTITY, path)
    return path


def test_what_is_saved_is_loaded(saved: Path) -> None:
    assert keystore.load(saved).raw == IDENTITY.raw
    assert [entry.name for entry in saved.parent.iterdir()] == ["identity"]  # no scratch file is left


def test_only_the_owner_may_read_it_whatever_the_umask(path: Path) -> None:
    path.parent.mkdir()
    before = os.umask(0)
    try:
        keystore.save(IDENTITY, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_private_from_its_first_byte(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is made and then restricted can be opened in between."""
    path.parent.mkdir()
    modes = []
    original = os.fsync

    def look(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr(os, "chmod", lambda *_: pytest.fail("restricted only afterwards"))
    keystore.save(IDENTITY, path)
    assert modes[0] == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o601, 0o644])
def test_a_file_that_others_reach_is_refused(saved: Path, mode: int) -> None:
    saved.chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        keystore.load(saved)


def test_an_identity_is_never_overwritten(saved: Path) -> None:
    with pytest.raises(IdentityError, match="already"):
        keystore.save(Identity.generate(), saved)
    assert keystore.load(saved).raw == IDENTITY.raw
    assert [entry.name for entry in saved.parent.iterdir()] == ["identity"]


def test_a_crash_while_writing_leaves_no_identity(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IdentityError, match="No space left on device"):
        keystore.save(IDENTITY, path)
    assert list(path.parent.iterdir()) == []


def test_errors_name_no_path(path: Path) -> None:
    with pytest.raises(IdentityError, match="No such file") as missing:
        keystore.load(path)
    with pytest.raises(IdentityError, match="No such file") as nowhere:
        keystore.save(IDENTITY, path)
    assert not any("mary" in str(caught.value) for caught in (missing, nowhere))


def test_a_device_is_no_identity() -> None:
    with pytest.raises(IdentityError, match="not a regular file"):
        keystore.load(Path("/dev/null"))
