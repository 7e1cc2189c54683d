"""Which simulated hospitals there are: their names, their data, and the study that they agree on.

Real data sources are dealt out by `partition`; without one, each hospital gets phantom patients of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedsecure.config import Member, Run, Site, Study, dump, load, unsummable, with_cohort
from fedsecure.data.phantom import VERSION, write_phantom
from fedsecure.data.source import open_source
from fedsecure.errors import SettingsError
from fedsecure.node.wiring import COORDINATOR, lay_out
from fedsecure.node.workbench import load_cohort
from fedsecure.seeds import derive_seed
from sim.partition import Scheme, partition

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class World:
    """How to make hospitals. `source` is a data source's address, or None for phantom patients."""

    source: str | None = None
    sites: int = 5
    scheme: Scheme = "random"
    phantom_patients: int = 8  # per hospital
    phantom_size: int = 128  # pixels
    most: int | None = None  # patients a site keeps of those it was dealt; None: all
    device: str = "cpu"  # torch's name of where the sites train


def site_folder(run: Path, name: str) -> Path:
    return run / "sites" / name


def coordinator_folder(run: Path) -> Path:
    return run / COORDINATOR


def build(world: World, study: Study, run: Path, cache: Path, told: Told) -> Study:
    """Lay out the coordinator's and the sites' folders; returns the study with its cohort written in.

    Passes every volume through the data door once (it is cached), as the cohort's weights are the numbers of patients
    that each site really trains on. Raises DataError and SettingsError, the latter for a study that does not hold among
    so many sites before anything is written.
    """
    require_summable(study, world)
    if world.source is None:
        sites, structures = _phantoms(world, study, cache, told)
    else:
        sites, structures = _dealt(world, world.source, study)
    if structures is not None and "structures" not in study.data.model_fields_set:
        study = study.model_copy(update={"data": study.data.model_copy(update={"structures": structures})})
    settings = Run(cache=str(cache.resolve()))
    members = []
    for site in sites:
        told(f"reading the volumes of {site.name}")
        folder = site_folder(run, site.name)
        lay_out(folder, study, settings, site)
        cohort = load_cohort(folder, study, site)
        members.append(Member(name=site.name, weight=len(cohort.train)))
    study = with_cohort(study, members)
    for site in sites:
        lay_out(site_folder(run, site.name), study, settings, site)
    lay_out(coordinator_folder(run), study, settings)
    return study


def require_summable(study: Study, world: World) -> None:
    """Raises SettingsError where the world has too few sites for the study's secure aggregation."""
    if why := unsummable(study.security, world.sites):
        raise SettingsError(why)


def connect(run: Path, study: Study, endpoint: str) -> None:
    """Tell every site where the coordinator listens."""
    for member in study.sites:
        path = site_folder(run, member.name) / "site.json"
        path.write_bytes(dump(load(Site, path.read_bytes()).model_copy(update={"coordinator": endpoint})))


def at_most(part: tuple[int, ...], most: int | None, study: Study) -> tuple[int, ...]:
    """A draw of so many of a site's patients, in their order."""
    ranked = sorted(part, key=lambda position: derive_seed(study.split_seed, "kept", position))
    return tuple(sorted(ranked[:most]))


def _phantoms(world: World, study: Study, cache: Path, told: Told) -> tuple[list[Site], tuple[str, ...] | None]:
    sites = []
    structures: tuple[str, ...] | None = None
    for number in range(world.sites):
        name = f"site-{number + 1}"
        # Only the draw decides what a phantom is: the same world again finds its volumes where they are.
        folder = cache / f"phantom-v{VERSION}-{study.split_seed}-{world.phantom_patients}-{world.phantom_size}" / name
        if not (folder / "complete").exists():
            told(f"writing phantom volumes for {name}")
            seed = derive_seed(study.split_seed, "phantom", number)
            write_phantom(folder / "volumes", world.phantom_patients, seed, number, world.phantom_size)
            (folder / "complete").touch()
        source = f"folder:{(folder / 'volumes').resolve()}"
        structures = open_source(source).structures
        sites.append(Site(name=name, source=source, device=world.device))
    return sites, structures


def _dealt(world: World, address: str, study: Study) -> tuple[list[Site], tuple[str, ...] | None]:
    scheme, _, path = address.partition(":")
    source = open_source(address)
    groups = [patient.group for patient in source.patients]
    absolute = f"{scheme}:{Path(path).expanduser().resolve()}"
    parts = partition(groups, world.sites, world.scheme, study.split_seed)
    sites = [
        Site(name=f"site-{number + 1}", source=absolute, subjects=at_most(part, world.most, study), device=world.device)
        for number, part in enumerate(parts)
    ]
    if source.structures is None and "structures" not in study.data.model_fields_set:
        raise SettingsError(
            "this data source does not say what its labels mean: name them in the study, for example\n"
            '  [data]\n  structures = ["liver", "tumour"]   # label values 1, 2'
        )
    return sites, source.structures
