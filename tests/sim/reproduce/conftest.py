"""Records made by hand, so that what a table says of them can be worked out on paper."""

from __future__ import annotations

from typing import Any

from fedsecure.report.results import Machine, Provenance, WorldRecord
from sim.reproduce.record import Probe, Record, Score, Traffic

RUN = Provenance(
    command="fedsecure reproduce local",
    release="0" * 64,
    commit="c" * 40,
    version="0.1.0",
    machine=Machine(processor="test", cores=2, system="Linux x86_64"),
    libraries={"torch": "2.0"},
    started="2026-01-01T00:00:00+00:00",
    seconds=60.0,
)


def record(arm: str, seed: int, scores: tuple[Score, ...], **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "id": f"{arm}-s{seed}",
        "digest": "0" * 64,
        "arm": arm,
        "seed": seed,
        "device": "cpu",
        "judged": "held-out",
        "structures": ("a", "b"),
        "worlds": (WorldRecord(kind="msd", partition="group", sites=2, phantom_patients=None),),
        "studies": ({},),
        "study_digests": ("0" * 64,),
        "run": RUN,
        "pretrain_seconds": 20.0,
        "finetune_seconds": 40.0,
        "scores": scores,
        "probes": (Probe(site=None, accuracy=0.5, chance=0.25, untrained=0.4, norm=0.2, slices=10),),
        "traffic": Traffic(up=1000.0, down=2000.0, all_up=1500.0, all_down=2500.0),
    }
    return Record(**{**fields, **changes})
