"""A node of a pilot: its folder laid out from the files that its operator writes, and from the roster.

    identity.key, trust      of the key ceremony (docs/keys.md)
    STUDY.toml               the study, the same on all nodes; its `sites` are members of the roster
    SITE.toml                a site's own: where its volumes are, where the coordinator listens; never leaves

Whoever starts a study goes on with it: a folder that holds another study's state is refused, not overwritten.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from fedsecure.config import Run, Site, Study, load, load_study, parse
from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.greeting import differing, settings_of
from fedsecure.node.membership import load_trust, now
from fedsecure.node.wiring import lay_out
from fedsecure.node.workbench import ENCODER
from keys.edition import Edition

Endpoint = Annotated[str, StringConstraints(pattern=r"^tcp://[A-Za-z0-9.-]+:[0-9]{1,5}$")]


class SiteFile(Site):
    """SITE.toml. The name is the roster's; paths are relative to the file. Changes no result but by its volumes."""

    name: str = ""
    coordinator: Endpoint
    study: str = "study.toml"
    cache: str | None = None  # folder of prepared volumes; None: in the node's folder
    health: str | None = None  # 127.0.0.1:PORT
    modality: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2,8}$")] | None = None  # DICOM's, e.g. MR or CT


def read_site(path: Path) -> SiteFile:
    """SITE.toml with its paths made absolute. Raises SettingsError."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the site file {path.name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the site file is not TOML: {error}") from None
    if "name" in raw:
        raise SettingsError("the site file names the site: leave `name` out, the roster says who this is")
    file = parse(SiteFile, raw)
    kind, colon, where = file.source.partition(":")
    if not colon:
        raise SettingsError("source is acdc:PATH, msd:PATH, folder:PATH or dicom:PATH")
    base = path.resolve().parent
    return file.model_copy(
        update={
            "source": f"{kind}:{base / Path(where).expanduser()}",
            "study": str(base / file.study),
            "cache": None if file.cache is None else str(base / file.cache),
        }
    )


def lay_out_site(folder: Path, file: SiteFile) -> Study:
    """Write what a site's process reads. Raises SettingsError or RosterError, and then has written nothing."""
    edition, me = _membership(folder)
    study = agreed_study(Path(file.study), edition, begun=_has_begun(folder))
    if me == edition.coordinator:
        raise SettingsError("this folder's keys are the coordinator's: it is started by `fedsecure coordinator`")
    if me not in {member.name for member in study.sites}:
        raise SettingsError(f"the study's sites do not name {me}, which is who this folder's keys are")
    _same_study(folder, study)
    site = Site(**{**file.model_dump(include=set(Site.model_fields)), "name": me})
    lay_out(folder, study, Run(cache=file.cache), site)
    return study


def lay_out_coordinator(folder: Path, path: Path, encoder: Path | None = None) -> Study:
    """Write what a coordinator's process reads. encoder: the file that the study starts from, where it names one.

    Raises as `lay_out_site`.
    """
    edition, me = _membership(folder)
    if me != edition.coordinator:
        raise SettingsError(f"this folder's keys are {me}'s, a site: it is started by `fedsecure site`")
    study = agreed_study(path, edition, begun=_has_begun(folder))
    _same_study(folder, study)
    raw = _start(folder, study, encoder)
    lay_out(folder, study, Run())
    if raw:
        (folder / ENCODER).parent.mkdir(exist_ok=True)
        write_atomic(folder / ENCODER, raw)
    return study


def agreed_study(path: Path, edition: Edition, *, begun: bool = False) -> Study:
    """The study of a file, whose sites are in the roster. Raises SettingsError.

    begun: this folder goes on with a study. A site that was revoked meanwhile still stands in its file, which all have
    agreed on: the coordinator takes it as one that has left (`CoordinatorShell`), and the study need not end with it.
    """
    study = load_study(path)
    if not study.sites:
        raise SettingsError(
            "the study names no site: write one [[sites]] with name and weight (patients it trains on) for each"
        )
    strangers = {member.name for member in study.sites} - set(edition.sites)
    if begun:
        strangers -= {entry.name for entry in edition.revoked}
    if strangers:
        raise SettingsError(f"the study names sites that the roster does not: {', '.join(sorted(strangers))}")
    return study


def _start(folder: Path, study: Study, encoder: Path | None) -> bytes:
    """The encoder that the study names by its digest; empty if it names none, or the folder has it already."""
    if study.encoder is None or (encoder is None and (folder / ENCODER).is_file()):
        return b""
    if encoder is None:
        raise SettingsError("this study starts from an encoder: name its file with --encoder")
    try:
        raw = encoder.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the encoder's file: {error.strerror}") from None
    if hashlib.sha256(raw).hexdigest() != study.encoder:
        raise SettingsError("the encoder's file is not the one that the study names by its digest")
    return raw


def _membership(folder: Path) -> tuple[Edition, str]:
    trust = load_trust(folder)
    trust.roster(now())
    if trust.accepted is None:
        raise RuntimeError("a roster to act on, of no edition")
    return trust.accepted, trust.me


def _same_study(folder: Path, study: Study) -> None:
    if not _has_begun(folder):
        return
    begun = load(Study, (folder / "study.json").read_bytes())
    names = differing(begun, tuple(settings_of(study).values()))
    if names:
        raise SettingsError(
            f"this folder has begun another study, which differs in {', '.join(names)}: go on with that one's file, or "
            "begin in a new folder with the same identity.key and trust"
        )


def _has_begun(folder: Path) -> bool:
    return (folder / "node.db").exists() and (folder / "study.json").exists()
