"""Three frozen models: `Study` (signed and hashed; all that changes results), `Site` (one hospital's own file; never
leaves), `Run` (how it is shown; changes no result).

Where the paper leaves a value open, the field's comment says where the default comes from. A flag of the command line
never overrides a study that sites have agreed to.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from fedsecure.errors import SettingsError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
# The two frameworks of the paper, then what they are compared with (docs/method.md 6)
Framework = Literal[
    "fcl", "fclopt", "local", "rotation", "simclr", "swav", "fedca", "byol", "fedema", "moco", "mae"
]  # fmt: skip
Precision = Literal["float32", "bfloat16"]
OWN_SETTINGS: Final[frozenset[Framework]] = frozenset({"swav", "fedca", "fedema", "mae"})  # sections of a study
LEAST_SUMMED: Final = 5  # sites: of 3, of which one drops out, each of the others reads the other
_Model = TypeVar("_Model", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataSettings(_Frozen):
    """How a volume becomes slices. The same on all sites, or their slices would not be comparable."""

    structures: tuple[str, ...] = ("RV cavity", "LV myocardium", "LV cavity")  # label values 1, 2, ...
    # "RAS" and its kin by the file's header, or "stored": axes stay as in the file (TOML cannot say None)
    orientation: Annotated[str, StringConstraints(pattern=r"^([RL][AP][SI]|stored)$")] = "RAS"
    spacing_mm: tuple[float, float] | None = None  # in-plane (y, x); None where headers are nominal
    crop: Annotated[int, Field(ge=16)] | None = None  # centre crop/pad in pixels before resizing; None: pad to square
    size: Annotated[int, Field(ge=32, multiple_of=16)] = 64  # pixels of the square that the network sees
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.3  # share of each site's patients, at least one
    fold: tuple[int, int] | None = None  # (k, K): in place of that share, the k-th of K equal parts, from 0
    # Which patients are at which site, and which are held out, is drawn by the study's seed, or by this one: then
    # studies of several seeds hold out the same patients
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    # Who is scored. "validation": the same share of the training side, which then trains nobody, so that settings are
    # chosen without a look at the held-out patients; those are left out altogether
    judged: Literal["held-out", "validation"] = "held-out"
    on_error: Literal["stop", "exclude"] = "stop"  # a file that cannot be used ends the run, or is left out and listed

    @model_validator(mode="after")
    def _fold_is_one_of_several(self) -> Self:
        if self.fold is not None and not (0 <= self.fold[0] < self.fold[1] and self.fold[1] >= 2):
            raise ValueError("fold: [k, K] is the k-th of K parts, counted from 0, and K is at least 2")
        return self


class ModelSettings(_Frozen):
    """The 2D U-Net and its heads. No BatchNorm: it leaks statistics and breaks per-patient clipping."""

    filters: Annotated[int, Field(ge=4, multiple_of=4)] = 16  # 16 for CPUs; 48 is the paper's
    norm: Literal["instance", "group"] = "instance"
    hidden: Annotated[int, Field(ge=8)] = 128  # width of projector and predictor
    features: Annotated[int, Field(ge=8)] = 64  # d, width of the shared vectors
    # Of the U-Net's convolutions; weights, heads and losses are float32. bfloat16 is mixed precision: docs/method.md 5
    precision: Precision = "float32"


class DenseSettings(_Frozen):
    """Local contrast of FCL and FCLOpt, which trains the decoder beside the encoder: learning/dense.py. Values ours."""

    weight: Annotated[float, Field(ge=0)] = 0.0  # of the local loss; 0: the decoder is not pre-trained
    temperature: Annotated[float, Field(gt=0)] = 0.2
    pixels: Annotated[int, Field(ge=2)] = 48  # places of a slice that are compared in a step
    apart: Annotated[float, Field(gt=0, lt=1)] = 0.125  # of half the side: nearer places are no negatives
    negatives: Literal["slice", "batch"] = "slice"  # other places of the same slice, or of all the batch's too


class PretrainSettings(_Frozen):
    """Federated contrastive pre-training. No value below was found in the paper. Learning rate, momentum and
    temperature are ours, found on ACDC without BatchNorm; the rest are common in the field. The baselines share
    rounds, steps, batches, rates and, where they have them, momentum, temperature, bank and negatives."""

    rounds: Annotated[int, Field(ge=1)] = 10
    local_steps: Annotated[int, Field(ge=1)] = 30
    batch: Annotated[int, Field(ge=2)] = 16  # slices; two views of each
    # "stratified": every partition of batch/S patients, so that each slice has same-partition positives of others
    batches: Literal["stratified", "uniform"] = "stratified"
    views: Literal["mild", "strong"] = "mild"  # how far a view is changed: learning/transforms.py's VIEW or LABELLED
    # AdamW, cosine over all rounds. At 3e-3 FCL learnt as much, and FCLOpt fell to one direction under some seeds.
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # m of momentum encoder and target: few steps a round
    # Where the momentum encoder (FCL) starts a round: the site's own of the round before, or the global model. Open in
    # the paper; public code has both.
    momentum_start: Literal["keep", "reset"] = "keep"
    partitions: Annotated[int, Field(ge=2, le=255)] = 4  # S
    # FCL, and what of it a contrastive baseline has
    temperature: Annotated[float, Field(gt=0)] = 0.5  # tau; at 0.1 spreading costs more than collapse, early on
    bank: Annotated[int, Field(ge=1)] = 1024  # |Q_l,c|: newest features a site keeps, and shares
    negatives: Annotated[int, Field(ge=1)] = 512  # K = |Q'|, drawn from local and remote banks
    draw: Literal["uniform", "stratified"] = "uniform"  # Q': as printed, or K/S of every partition
    remote_only: bool = False  # Lambda(q): other sites' features alone, not what Q' holds of the site's own
    denominator: Literal["exclude_same_partition", "literal"] = "exclude_same_partition"  # docs/method.md 2.4
    # Negatives of L_local. "bank" is as printed and collapsed in every run without BatchNorm: see contrastive.fcl_terms
    local_negatives: Literal["batch", "bank"] = "batch"
    # Forms of feature exchange, docs/method.md 2.5: one vector a slice, sealed site to site; a partition's sums over
    # patients, sealed likewise or entering one sum over all sites; "none" is the ablation without any
    exchange: Literal["vectors", "prototypes", "secagg-prototypes", "none"] = "vectors"
    prototypes_per_partition: Annotated[int, Field(ge=1, le=64)] = 4  # bins along z within a partition
    prototype_clip: Annotated[float, Field(gt=0, le=1000)] = 1.0  # C_f: largest norm of all that a patient adds
    # "separable": a sum over patients, each with itself and with what other sites released; docs/method.md 2.6
    loss: Literal["batch", "separable"] = "batch"
    dense: DenseSettings = DenseSettings()  # FCL and FCLOpt
    # FCLOpt only
    positives: Literal["view", "partition"] = "partition"  # pair two views, or same-partition slices of two patients
    # Share of a batch's mean projection by which the projector's bias goes down at each step. At 0 the norm of the mean
    # embedding reached .97 on ACDC.
    recentre: Annotated[float, Field(ge=0, le=1)] = 0.1
    # The target network: averaged and sent like the online one ("naive"); predicted by all from what they hold
    # ("ptnu", and the ablations "one-step", "extrapolate" and "copy"); or each site's own ("local"). docs/method.md 4.2
    target: Literal["naive", "ptnu", "one-step", "extrapolate", "copy", "local"] = "ptnu"
    # When the sites' own targets are asked for, to measure how far a prediction is off: in every round, when the
    # coordinator extrapolates a large distance, or when the sites' scores bound one from above. docs/method.md 4.3
    distance: Literal["none", "r1", "r2"] = "r1"
    threshold: Annotated[float, Field(ge=0)] = 0.02  # delta: relative distance up to which a prediction is good enough
    refresh: Annotated[int, Field(ge=1)] = 10  # R: a prediction is measured at least every so many rounds

    @model_validator(mode="after")
    def _pixels_are_separable_too(self) -> Self:
        if self.dense.weight and self.loss == "separable" and self.dense.negatives != "slice":
            raise ValueError(
                'loss = "separable" is a sum over patients, and pixels of other patients would be negatives: write '
                '[pretrain.dense] negatives = "slice"'
            )
        return self

    @model_validator(mode="after")
    def _distance_has_a_prediction(self) -> Self:
        if self.target in ("naive", "local") and self.distance != "none":
            raise ValueError(
                f'distance = "{self.distance}" is about a predicted target, and target = "{self.target}" predicts '
                'none: write distance = "none", or another target'
            )
        if self.target == "extrapolate" and self.distance == "r2":
            raise ValueError(
                'distance = "r2" scores a prediction by the end of a site\'s own round, which target = "extrapolate" '
                'does not look at: write distance = "r1" or "none"'
            )
        return self


class SwavSettings(_Frozen):
    """FedSwAV only. The paper's own but for the prototypes: it has 3,000 for batches of thousands."""

    prototypes: Annotated[int, Field(ge=2, le=512)] = 16
    temperature: Annotated[float, Field(gt=0)] = 0.1
    epsilon: Annotated[float, Field(ge=0.02)] = 0.05  # entropy of the codes; below, their exponentials leave float32
    iterations: Annotated[int, Field(ge=1)] = 3  # of Sinkhorn-Knopp


class FedcaSettings(_Frozen):
    """FedCA only."""

    alignment: Annotated[float, Field(ge=0)] = 0.1  # weight of the alignment loss; ours: at 1 a toy run collapsed


class FedemaSettings(_Frozen):
    """FedEMA only."""

    scaler: Annotated[float, Field(ge=0, le=1)] = 0.7  # tau: share of the site's own model, the first time they differ


class MaeSettings(_Frozen):
    """The masked autoencoder only. Between MAE's share (.75) and what convolutions do with it."""

    masked: Annotated[float, Field(gt=0, lt=1)] = 0.6  # share of each view's patches
    patch: Literal[4, 8, 16] = 8  # pixels of a patch's side
    keep_decoder: bool = False  # fine-tuning starts from it too, but for its last layer


class ConsistencySettings(_Frozen):
    """Weak-to-strong consistency on the unlabelled slices: learning/consistency.py. Threshold, drop and share of mixed
    slices are FixMatch's and UniMatch's, the rest is ours."""

    weight: Annotated[float, Field(ge=0)] = 0.0  # of the unlabelled loss beside the labelled one; 0: off
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.95  # probability from which a pixel has a pseudo-label
    batch: Annotated[int, Field(ge=1)] = 8  # unlabelled slices a step
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.3  # share of the steps over which the weight grows
    teacher: Annotated[float, Field(ge=0, lt=1)] = 0.0  # EMA momentum of who pseudo-labels; 0: the network itself
    mixed: Annotated[float, Field(ge=0, le=1)] = 0.5  # share of strong views with a box out of another slice (CutMix)
    dropped: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of features dropped in a second strong view; 0: none


class FinetuneSettings(_Frozen):
    """Supervised fine-tuning with N labelled patients per site."""

    labelled: tuple[Annotated[int, Field(ge=1)], ...] = (1, 4)  # the N of the tables
    modes: tuple[Literal["local", "federated"], ...] = ("local", "federated")
    # Local: in all; federated: split over `rounds`. Fewer make a weak baseline, and a gain of pre-training of it:
    # a random start on ACDC (8 filters, crop 160, 3 sites) had Dice .64 / .69 at N=1 / 4 with 400, .66 / .72 with 600.
    steps: Annotated[int, Field(ge=1)] = 600
    rounds: Annotated[int, Field(ge=1)] = 10  # federated only
    batch: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 5e-3  # AdamW, one cycle, 10 % warm-up; 1e-2 was worse (.56 at N=1)
    # Share of it for what was pre-trained, encoder and a kept decoder's levels; a random start has nothing of the kind.
    pretrained_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    consistency: ConsistencySettings = ConsistencySettings()


class SparseSettings(_Frozen):
    """Seeded-sparse updates, of every training round of a study: learning/sparse.py."""

    # Rounds in which all of a model is sent once, the same random 1/period of it by every site; 1: all of it in each
    period: Annotated[int, Field(ge=1, le=1000)] = 1


class PrivacySettings(_Frozen):
    """Differential privacy for the patient. Off by default: epsilon is infinite then, and every report says so.

    What needs the accountant (noise under the grid, a cap under one round, too few survivors) is checked by
    `fedsecure.privacy.planning`, before a study runs.
    """

    enabled: bool = False
    unit: str = "patient"  # and nothing else: see below
    epsilon: Annotated[float, Field(gt=0)] | None = None  # the most a patient may lose over the whole study
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None  # None: min(1e-6, 1/(100 n)), n patients
    noise_multiplier: Annotated[float, Field(ge=0)] | None = None  # z = sigma / sensitivity; None: what epsilon needs
    # "site-update": the whole update is clipped to C, and one patient may turn it round (sensitivity 2C).
    # "patient-sum": one sum of per-patient clipped gradients a round (sensitivity C).
    contribution: Literal["site-update", "patient-sum"] = "site-update"
    parameters: Annotated[int, Field(ge=1)] = 1000  # d, values that are privatised and sent; noise grows as sqrt(d)
    clip_units: Annotated[int, Field(ge=1, le=1 << 20)] = 1024  # C in units of the integer grid
    sampling: Annotated[float, Field(gt=0, le=1)] = 1.0  # chance with which a patient takes part in a round, in secret
    least_survivors: Annotated[int, Field(ge=1)] | None = None  # U_min: fewer are never unmasked; None: all sites
    colluders: Annotated[int, Field(ge=0)] | None = None  # c, after dropouts; None: max(1, (sites - 1) // 5)

    @model_validator(mode="after")
    def _is_a_guarantee(self) -> Self:
        if self.unit != "patient":
            raise ValueError(
                f'unit = "{self.unit}": a patient has many slices, and a guarantee for one says next to nothing of the '
                'patient: write unit = "patient"'
            )
        if not self.enabled and (self.epsilon is not None or self.noise_multiplier is not None):
            raise ValueError("epsilon without noise: write enabled = true, or take epsilon and noise_multiplier out")
        if self.enabled and self.noise_multiplier == 0:
            raise ValueError("noise_multiplier = 0 bounds nothing: write a larger one, or leave it out")
        if self.enabled and self.epsilon is None:
            raise ValueError("enabled without a cap: write epsilon, the most that a patient may lose over the study")
        if self.sampling < 1 and self.contribution != "patient-sum":
            raise ValueError('sampling draws patients into a sum: write contribution = "patient-sum", or sampling = 1')
        return self


class SecuritySettings(_Frozen):
    """Secure aggregation (protocols/secagg/SPEC.md): the coordinator sees the sum of the sites' updates and none of
    them. A coordinate of the mean is then off by tau clip sqrt(n) / 2^ring at most (root mean square), with n sites and
    tau about .035 with rotation, 1 without: docs/results/secagg.md."""

    secagg: bool = True  # with fewer than five sites a study has to say false itself: who takes part should know it
    ring: Literal[16, 20, 24, 32] = 20  # bits of a value that is sent
    rotation: bool = True  # turn a vector before it is rounded, so that the grid need not reach as far as the clip
    clip: Annotated[float, Field(gt=0, le=1e5)] = 100.0  # L2 norm of a site's update of a round; longer is scaled down
    step_deadline_s: Annotated[float, Field(gt=0)] = 60.0  # of each step of a sum; who is late then drops out of it


def unsummable(security: SecuritySettings, sites: int) -> str:
    """Why so many sites' updates cannot be summed securely, and both ways out; empty if they can, or are not to be."""
    if not security.secagg or sites >= LEAST_SUMMED:
        return ""
    return (
        f"secure aggregation hides no site's update among {sites}, it takes {LEAST_SUMMED}: have {LEAST_SUMMED} sites "
        "or more, or write secagg = false under [security]; the coordinator then sees each site's update"
    )


class Member(_Frozen):
    """A site's place in the cohort. Weights are constants of the study, so that FedAvg releases no count."""

    name: Name
    weight: Annotated[int, Field(ge=1)]  # patients it trains on, declared beforehand


class Study(_Frozen):
    """All that changes results. Its digest stands in every header, so sites of another study cannot take part."""

    format: Literal[1] = 1
    name: Name = "study"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    framework: Framework = "fcl"
    sites: tuple[Member, ...] = ()
    threads: Annotated[int, Field(ge=1)] = 1  # torch threads of each site: part of the result, bit for bit
    neighbours: Annotated[int, Field(ge=1)] = 15  # k of the k-NN partition probe
    baseline: bool = True  # also fine-tune from random initialisation
    # "random": no pre-training; the random start alone is fine-tuned. "encoder": no pre-training here; fine-tuning
    # starts from one that was pre-trained elsewhere, whose file the coordinator holds and whose digest stands below
    start: Literal["pretrain", "random", "encoder"] = "pretrain"
    encoder: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None  # SHA-256 of its file
    release_metrics: bool = False  # mean Dice per structure leaves a site only if this says so
    # Deadlines, in seconds; None: wait for every site. Whoever is late joins the round that is open then.
    join_deadline_s: Annotated[float, Field(gt=0)] | None = None  # from the coordinator's start to the first round
    round_deadline_s: Annotated[float, Field(gt=0)] | None = None  # of a training round, and of targets asked for
    evaluation_deadline_s: Annotated[float, Field(gt=0)] | None = None  # None: as round_deadline_s
    minimum_sites: Annotated[int, Field(ge=1)] = 1  # fewer at a deadline abort the study
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    pretrain: PretrainSettings = PretrainSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    sparse: SparseSettings = SparseSettings()
    privacy: PrivacySettings = PrivacySettings()
    security: SecuritySettings = SecuritySettings()
    # Of the framework of the same name alone; refused in a study of any other
    swav: SwavSettings = SwavSettings()
    fedca: FedcaSettings = FedcaSettings()
    fedema: FedemaSettings = FedemaSettings()
    mae: MaeSettings = MaeSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [member.name for member in self.sites]
        if len(set(names)) != len(names):
            raise ValueError("sites: a name stands twice; names are identities")
        if self.sites and self.minimum_sites > len(self.sites):
            raise ValueError("minimum_sites is larger than the number of sites: no round could close")
        if self.sites and (why := unsummable(self.security, len(self.sites))):
            raise ValueError(why)
        if self.join_deadline_s is not None and self.round_deadline_s is None:
            raise ValueError("join_deadline_s begins without late sites, and the first round would wait for them: set "
                             "round_deadline_s, too")  # fmt: skip
        if len(set(self.finetune.labelled)) != len(self.finetune.labelled):
            raise ValueError("finetune.labelled: a number stands twice")
        if (self.start == "encoder") != (self.encoder is not None):
            raise ValueError('encoder: the digest of the start, given with start = "encoder" and with no other')
        predicted = self.framework == "fclopt" and self.pretrain.target not in ("naive", "local")
        if self.sparse.period > 1 and self.start == "pretrain" and predicted:
            raise ValueError(
                "a target network is predicted from the mean of the sites' ends, of which a sparse update leaves most "
                'out: write pretrain.target = "naive" with distance = "none", or sparse.period = 1'
            )
        if self.privacy.enabled and self.model.precision != "float32":
            raise ValueError(
                'clipping bounds float32 gradients: write [model] precision = "float32", or take [privacy] out'
            )
        for name in OWN_SETTINGS - {self.framework}:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'[{name}] is for framework = "{name}" alone, and this study\'s is "{self.framework}"')
        if self.framework == "fedca" and self.pretrain.exchange not in ("vectors", "none"):
            raise ValueError(
                f'exchange = "{self.pretrain.exchange}" sums features by partition, which framework = "fedca" does not '
                'look at: write exchange = "vectors" or "none"'
            )
        return self

    @property
    def split_seed(self) -> int:
        """The seed that deals patients to simulated sites and holds some of them out."""
        return self.seed if self.data.split_seed is None else self.data.split_seed

    def canonical(self) -> bytes:
        """The study as JSON with sorted keys and no white space: the bytes that are hashed and signed."""
        return msgspec.json.encode(self.model_dump(mode="json"), order="sorted")

    def digest(self) -> bytes:
        """SHA-256 over a label and `canonical()`; 32 bytes."""
        return hashlib.sha256(b"fedsecure/study/v1\0" + self.canonical()).digest()


class SumFloors(_Frozen):
    """Below these a site takes part in no secure sum, whatever the study says."""

    sites: Annotated[int, Field(ge=5)] = 5  # with 5, one of which drops out, no survivor reads another; with 3 it does
    known: Annotated[int, Field(ge=1)] = 1  # sites whose keys its operator verified, itself not counted
    corrupted: Annotated[int, Field(ge=1)] = 1  # sites that may work together with the coordinator
    attempts: Annotated[int, Field(ge=1)] = 3  # sums begun for one round
    sums: Annotated[int, Field(ge=1)] = 1000  # sums opened in a study


class Site(_Frozen):
    """One hospital's own settings. This file stays there; it may tighten a study, never loosen it."""

    name: Name
    source: str  # acdc:PATH, msd:PATH, folder:PATH, dicom:PATH or hvsmr:PATH
    subjects: tuple[int, ...] | None = None  # positions in the source; None: all. Simulations deal one source out.
    coordinator: str = ""  # tcp://host:port; empty in memory
    device: str = "cpu"
    content_tests: bool = True  # look for this site's volumes in all that its trainer wants to let out (audit.tap)
    # Bytes of releases over the whole study. None: only what the study's schema and rounds add up to
    maximum_upload: Annotated[int, Field(ge=0)] | None = None
    sums: SumFloors = SumFloors()


class Run(_Frozen):
    """Where a run keeps scratch. Changes no result."""

    cache: str | None = None  # folder of prepared volumes; None: inside the run folder


def parse_study(raw: dict[str, Any]) -> Study:
    """A study from plain values. Raises SettingsError naming each wrong field and what is allowed there."""
    return parse(Study, raw)


def with_cohort(study: Study, members: Sequence[Member]) -> Study:
    """The study among these sites. Raises SettingsError if it does not hold among them, as secure aggregation may not:
    `model_copy` would not look."""
    cohort = [member.model_dump(mode="json") for member in members]
    return parse_study({**study.model_dump(mode="json"), "sites": cohort})


def load_study(path: Path) -> Study:
    """A study from a TOML file. Raises SettingsError if it cannot be read or does not hold."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the study file {path.name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the study file is not TOML: {error}") from None
    return parse_study(raw)


def load(kind: type[_Model], raw: bytes) -> _Model:
    """A frozen model from the JSON that `dump` wrote. Raises SettingsError."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise SettingsError(_explain(kind, error)) from None


def dump(model: BaseModel) -> bytes:
    """Readable JSON of a frozen model, for a node's own folder."""
    return model.model_dump_json(indent=2).encode() + b"\n"


def parse(kind: type[_Model], raw: dict[str, Any]) -> _Model:
    # TOML has arrays, strict pydantic wants tuples: go through JSON, whose arrays pydantic takes for tuples.
    return load(kind, msgspec.json.encode(raw))


def _explain(kind: type[BaseModel], error: ValidationError) -> str:
    lines = [
        f"  {'.'.join(str(part) for part in item['loc']) or kind.__name__}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)
    ]
    return f"{kind.__name__} does not hold:\n" + "\n".join(lines)
