"""Where a node's heavy work is done: the only module of the nodes that reaches torch.

It reads what the node stored and writes what the node will hand to its gate, all in the node's own folder:

    incoming/model.safetensors, incoming/<site>.bank      in, written by the node
    incoming/prototypes.f32                               in: the sum of all sites' prototypes, if the round has one
    incoming/target.safetensors                           in: the round's target network, if it is no part of the model
    state/<stage>-<round>.safetensors                     private state after a round (momentum encoder, bank, ...);
                                                          of pre-training alone, the site's own encoder
    outgoing/<flow>.safetensors                           out, un-noised; the gate takes it from here
    pictures/<stage>.safetensors                          overlays for the site's own report

A round that is done again after a kill reads the same files and writes the same bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from fedsecure.config import Run, Site, Study, load
from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.learning import prototypes
from fedsecure.learning.parts import start_of
from fedsecure.packing import pack_arrays, pack_model, unpack_arrays, unpack_bank, unpack_model, unpack_vector
from fedsecure.plan import Init, has_target, pretrains_alone, schedule, shared_flow
from fedsecure.progress import Observe
from fedsecure.types import Bank, Cohort, Flow, State, Tensors

MODEL: Final = "incoming/model.safetensors"
TARGET: Final = "incoming/target.safetensors"
SUM: Final = "incoming/prototypes.f32"
ENCODER: Final = "models/encoder.safetensors"
PRETRAINING: Final = 0  # the stage's number in every schedule


def first_file(stage: int) -> str:
    """Digest of the stage's first model, as a site makes it itself (SHA-256, 32 bytes)."""
    return f"incoming/first-{stage}.sha256"


class Workbench:
    """The trainer of one node. A site's has a cohort; the coordinator's only makes first models."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._study = load(Study, (folder / "study.json").read_bytes())
        self._cohort: Cohort | None = None

    def prepare(self, stage: int) -> None:
        """Write a stage's first model to models/prepared.safetensors, from the pre-trained encoder if it needs it."""
        from fedsecure.learning.dispatch import initial_model

        path = self._folder / ENCODER
        raw = path.read_bytes() if path.is_file() else b""
        if self._study.start == "encoder" and hashlib.sha256(raw).hexdigest() != self._study.encoder:
            raise SettingsError("the coordinator's encoder file is missing or not the one that the study names")
        tensors = initial_model(self._study, stage, unpack_model(raw) if raw else None)
        self._write("models/prepared.safetensors", pack_model(tensors))

    def train(self, stage: int, round_: int, banks: tuple[str, ...], observe: Observe) -> tuple[Flow, ...]:
        """Run one round's job; returns the flows that wait in outgoing/. Raises DataError, SettingsError, Malformed."""
        from fedsecure.learning.dispatch import run
        from fedsecure.learning.job import Job

        site = load(Site, (self._folder / "site.json").read_bytes())
        job = Job(
            study=self._study,
            site=site.name,
            stage_index=stage,
            round=round_,
            model=self._model(stage, round_),
            banks={name: self._bank(name) for name in sorted(banks)},
            state=self._state_before(stage, round_),
        )
        self._note_first(stage, round_, job.model)
        result = run(job, self._site_cohort(site), site.device, observe)
        for update in result.updates:
            self._write(f"outgoing/{update.flow}.safetensors", pack_arrays(update.arrays))
        self._write(f"state/{stage}-{round_}.safetensors", pack_arrays(result.state))
        self._forget_states(stage, round_)
        if result.pictures:
            self._write(f"pictures/{stage}.safetensors", pack_arrays(result.pictures))
        return tuple(update.flow for update in result.updates)

    def _note_first(self, stage: int, round_: int, model: Tensors) -> None:
        """With secure sums: make the stage's first model, for the chain of models that starts with it.

        The encoder in it is the site's own copy of what pre-training ended with, or what the study names by its digest.
        Where there is neither, as at a site that came too late, nothing is noted: it takes part in no sum of the stage.
        """
        from fedsecure.learning.dispatch import initial_model

        if not self._study.security.secagg or (self._folder / first_file(stage)).exists():
            return
        path, encoder = self._folder / ENCODER, None
        if self._study.start == "encoder":
            found = (start_of(model, decoder) for decoder in (False, True))
            named = (part for part in found if hashlib.sha256(pack_model(part)).hexdigest() == self._study.encoder)
            encoder = next(named, None)
            if round_ or encoder is None:
                return
        elif path.is_file():
            encoder = unpack_model(path.read_bytes())
        elif schedule(self._study)[stage].init is Init.PRETRAINED and not pretrains_alone(self._study):
            return
        first = pack_model(initial_model(self._study, stage, encoder))
        self._write(first_file(stage), hashlib.sha256(first).digest())

    def _site_cohort(self, site: Site) -> Cohort:
        if self._cohort is None:
            self._cohort = load_cohort(self._folder, self._study, site)
        return self._cohort

    def _model(self, stage: int, round_: int) -> Tensors:
        """The round's model, with the target network that all nodes arrived at beside it, where there is one."""
        model = unpack_model((self._folder / MODEL).read_bytes())
        if has_target(self._study, stage, round_):
            return {**model, **unpack_model((self._folder / TARGET).read_bytes())}
        return model

    def _bank(self, name: str) -> Bank:
        path = SUM if name == prototypes.FEDERATION else f"incoming/{name}.bank"
        return unpack_shared(self._study, name, (self._folder / path).read_bytes())

    def _state_before(self, stage: int, round_: int) -> State:
        """State after the newest earlier round of this stage; empty in its first, as for a site that missed some.

        Where the site pre-trained alone, a stage that starts from its encoder begins with what that left.
        """
        earlier = [number for number in self._rounds_with_state(stage) if number < round_]
        if round_ == 0 and self._starts_from_own_encoder(stage):
            stage, earlier = PRETRAINING, self._rounds_with_state(PRETRAINING)
        if not earlier:
            return {}
        return unpack_arrays((self._folder / f"state/{stage}-{max(earlier)}.safetensors").read_bytes())

    def _starts_from_own_encoder(self, stage: int) -> bool:
        tuned = stage != PRETRAINING and schedule(self._study)[stage].init is Init.PRETRAINED
        return tuned and pretrains_alone(self._study)

    def _rounds_with_state(self, stage: int) -> list[int]:
        return [int(path.stem.split("-")[1]) for path in self._folder.glob(f"state/{stage}-*.safetensors")]

    def _forget_states(self, stage: int, round_: int) -> None:
        """Keep this round's state and the one before it: a replay of this round begins from the latter."""
        kept = set(sorted(number for number in self._rounds_with_state(stage) if number <= round_)[-2:])
        for path in (self._folder / "state").glob("[0-9]*.safetensors"):
            of, number = (int(part) for part in path.stem.split("-"))
            own_encoder = of == PRETRAINING and pretrains_alone(self._study)
            if not own_encoder and (of != stage or number not in kept):
                path.unlink(missing_ok=True)

    def _write(self, name: str, raw: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, raw)


def unpack_shared(study: Study, name: str, raw: bytes) -> Bank:
    """What a site, or all of them together (prototypes.FEDERATION), shared of their features, in the study's form of
    exchange. Raises Malformed unless it fits the study."""
    settings = study.pretrain
    if shared_flow(study) is Flow.FEATURES:
        return unpack_bank(raw, study.model.features, settings.bank, settings.partitions)
    whole = unpack_vector(raw, prototypes.schema(study))[prototypes.NAME]
    return prototypes.from_sum(whole, prototypes.weight_of(study, name), settings.prototypes_per_partition)


def load_cohort(folder: Path, study: Study, site: Site) -> Cohort:
    """Open the site's source through the data door and split it by patient. Raises DataError, SettingsError."""
    from fedsecure.data.cohort import divide, load_salt, prepare
    from fedsecure.data.source import open_source
    from fedsecure.seeds import derive_seed

    run = load(Run, (folder / "run.json").read_bytes())
    source = open_source(site.source)
    if site.subjects is not None:
        source = source.select(site.subjects)
    cache = Path(run.cache) if run.cache else folder / "cache"
    prepared = prepare(source, study.data, cache, load_salt(folder / "salt"))
    return divide(prepared.subjects, study.data, derive_seed(study.split_seed, "split", site.name))
