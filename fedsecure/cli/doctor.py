"""`fedsecure doctor`: whatever can be found out before a study begins. See docs/pilot.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsecure.cli import passphrases
from fedsecure.cli.keys import Folder
from fedsecure.cli.pilot import Bind

if TYPE_CHECKING:
    from fedsecure.config import Study
    from fedsecure.node.checks import Finding
    from fedsecure.node.membership import Own
    from fedsecure.node.pilot import SiteFile


def doctor(
    settings: Annotated[
        Path, typer.Argument(metavar="FILE", help="STUDY.toml at the coordinator, SITE.toml at a site.")
    ],
    folder: Folder = Path(),
    bind: Bind = "tcp://0.0.0.0:7443",
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for the others.")] = 60.0,
    passphrase_file: passphrases.File = None,
) -> None:
    """Check this node and, run on all nodes at the same time, whether they fit together. Needs no running study.

    Clocks, port, disk, versions, keys and roster, the study's file, the volumes; and whether all sites have the same
    label map, modality and range of spacings. Of these only "the same" or "not" becomes known (docs/pilot.md).
    """
    from fedsecure.node.checks import Finding, check_disk, check_roster
    from fedsecure.node.membership import load_trust, open_own
    from fedsecure.node.pilot import agreed_study, read_site

    _show(check_roster(folder))
    own = open_own(folder, passphrases.present(passphrase_file))
    _show(Finding("ok", "keys", f"{own.name}, {own.identity.fingerprint}"))
    coordinates = own.name == own.roster.coordinator
    file = None if coordinates else read_site(settings)
    edition = load_trust(folder).accepted
    if edition is None:
        raise RuntimeError("a roster to act on, of no edition")
    study = agreed_study(settings if file is None else Path(file.study), edition)
    _show(Finding("ok", "study", f"{study.name}, {study.digest().hex()[:16]}, {len(study.sites)} sites"))
    found = [check_disk(folder, study)]
    _show(found[0])
    if file is None:
        from fedsecure.node.checks import versions
        from fedsecure.node.consultation import consult_coordinator

        typer.echo(f"waiting for the sites' doctors, up to {wait:.0f} s")
        found += _shown(consult_coordinator(folder, own, study, versions(), bind, wait))
    else:
        found += _site(folder, own, study, file, wait)
    if any(finding.level == "failed" for finding in found):
        raise typer.Exit(1)


def _site(folder: Path, own: Own, study: Study, file: SiteFile, wait: float) -> list[Finding]:
    from fedsecure.config import Run, Site
    from fedsecure.node.checks import categories, check_data, check_reachable, versions
    from fedsecure.node.consultation import consult_site
    from fedsecure.node.wiring import lay_out

    site = Site(**{**file.model_dump(include=set(Site.model_fields)), "name": own.name})
    # A folder of its own: nothing of the study has begun.
    lay_out(folder / "doctor", study, Run(cache=file.cache or str((folder / "cache").resolve())), site)
    data, cohort = check_data(folder / "doctor", study, site)
    _show(data)
    port = check_reachable(file.coordinator)
    _show(port)
    values = None if cohort is None else categories(site, file.modality, cohort)
    typer.echo(f"waiting for the others' doctors, up to {2 * wait:.0f} s")
    return [data, port, *_shown(consult_site(folder, own, study, versions(), file.coordinator, wait, values))]


def _shown(findings: list[Finding]) -> list[Finding]:
    for finding in findings:
        _show(finding)
    return findings


def _show(finding: Finding) -> None:
    colour = {"ok": None, "warning": "yellow", "failed": "red"}[finding.level]
    typer.secho(f"{finding.level:8} {finding.what:10} {finding.text}", fg=colour)
