from __future__ import annotations

import math

import numpy as np
import pytest

from fedsecure.config import (
    FinetuneSettings,
    Member,
    PretrainSettings,
    PrivacySettings,
    SecuritySettings,
    SparseSettings,
    Study,
    parse_study,
)
from fedsecure.errors import SettingsError
from fedsecure.plan import require_no_noise
from fedsecure.privacy.accountant import spent
from fedsecure.privacy.events import DiscreteGaussian
from fedsecure.privacy.planning import budget, events_of, rounded_bound, survivors
from fedsecure.privacy.quantize import Grid, draw_key, integer_norm
from fedsecure.privacy.rotate import rotate_clipped


def study(sites: int = 10, framework: str = "fclopt", weight: int = 20, **privacy: object) -> Study:
    asked: dict[str, object] = {"enabled": True, "epsilon": 8.0} | privacy
    return Study(
        framework=framework,
        sites=tuple(Member(name=f"s{i}", weight=weight) for i in range(sites)),
        finetune=FinetuneSettings(modes=("local",)),
        pretrain=PretrainSettings(exchange="none"),
        privacy=PrivacySettings(**asked),
        security=SecuritySettings(secagg=False),
    )


def test_noise_is_found_for_the_epsilon_of_the_whole_worst_case() -> None:
    found = budget(study())
    assert found.private
    assert found.releases == {"weights": 10, "target": 9}  # as if every round asked for targets
    assert found.cost is not None
    assert 7.9 < found.cost.epsilon <= 8
    assert found.one_round is not None
    assert 0 < found.one_round < 8
    assert found.delta == 1e-6
    assert found.cost.shares == 9
    assert found.alone is not None
    assert found.alone.epsilon > 3 * found.cost.epsilon
    assert found.alone.mu == pytest.approx(math.sqrt(9) * (found.cost.mu or 0))
    assert (found.least, found.colluders) == (10, 1)
    assert [line.multiplier for line in found.lines] == sorted((line.multiplier for line in found.lines), reverse=True)


def test_signal_to_noise_is_the_line_of_the_design_and_warns() -> None:
    ten, many = budget(study(parameters=500_000)), budget(study(200, parameters=1000))
    assert ten.own is not None
    assert many.own is not None
    coarse = rounded_bound(study(parameters=500_000)) / 1024
    assert 1.05 < coarse < 1.07
    assert ten.own.signal_to_noise == pytest.approx(10 / (2 * coarse * ten.own.multiplier * math.sqrt(500_000)))
    assert any("nothing can be learnt" in warning for warning in ten.warnings)
    assert many.warnings == ()


def test_without_privacy_epsilon_is_infinite_and_the_table_is_there() -> None:
    found = budget(study(enabled=False, epsilon=None))
    assert not found.private
    assert found.cost is None
    assert "epsilon is infinite" in found.warnings[0]
    assert len(found.lines) == 4


def summed(pretrain: dict[str, object] | None = None, framework: str = "fcl", **privacy: object) -> Study:
    """A study whose releases are sums over patients: FCL-separable, one clipped sum a round."""
    settings: dict[str, object] = {
        "exchange": "none", "loss": "separable", "momentum_start": "reset", "local_steps": 1
    }  # fmt: skip
    asked = study(framework=framework, contribution="patient-sum", **privacy)
    return asked.model_copy(update={"pretrain": PretrainSettings(**settings | (pretrain or {}))})  # type: ignore[arg-type]


def test_what_a_site_keeps_for_later_rounds_is_no_sum_over_patients_of_this_one() -> None:
    sparse = summed().model_copy(update={"sparse": SparseSettings(period=2)})
    with pytest.raises(SettingsError, match=r"sparse\.period = 1"):
        events_of(sparse, 3.0)


def test_sampled_patients_cost_less() -> None:
    full, sampled = (spent(events_of(summed(sampling=rate), 3.0), 1e-6, reference=False).epsilon for rate in (1.0, 0.1))
    assert sampled < 0.3 * full


@pytest.mark.parametrize("framework", ["fcl", "rotation", "mae"])
def test_a_sum_over_patients_is_charged_at_its_clip_and_a_site_update_at_twice_that(framework: str) -> None:
    (once,) = events_of(summed(framework=framework), 3.0)
    (twice,) = events_of(study(framework=framework), 3.0)
    assert isinstance(once, DiscreteGaussian)
    assert isinstance(twice, DiscreteGaussian)
    assert twice.sensitivity == 2 * once.sensitivity


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (summed({"local_steps": 2}), "local_steps = 1"),
        (summed({"loss": "batch"}), 'loss = "separable"'),
        (summed({"momentum_start": "keep"}), 'momentum_start = "reset"'),
        (summed(framework="fclopt"), "targets are centred on the mean of a batch"),
        (summed({"positives": "view", "recentre": 0.0, "distance": "r2"}, "fclopt"), "a second network"),
        (summed({"target": "naive", "distance": "none"}, "fclopt"), "a second network"),
        *(
            (summed(framework=name), "another framework")
            for name in ("simclr", "swav", "fedca", "moco", "byol", "fedema")
        ),
        (summed().model_copy(update={"finetune": FinetuneSettings(modes=("federated",))}), r'modes = \["local"\]'),
        (
            summed(framework="local").model_copy(update={"finetune": FinetuneSettings(modes=("federated",))}),
            "before it sends anything",
        ),
    ],
)
def test_what_is_no_sum_over_patients_is_not_charged_as_one(asked: Study, said: str) -> None:
    with pytest.raises(SettingsError, match=f"no sum over patients: .*site-update.*{said}"):
        events_of(asked, 3.0)
    with pytest.raises(SettingsError, match="no sum over patients"):
        budget(asked)


@pytest.mark.parametrize("exchange", ["vectors", "prototypes", "secagg-prototypes"])
def test_one_draw_of_patients_is_not_charged_as_two(exchange: str) -> None:
    with pytest.raises(SettingsError, match=r'weights leave in one round, .*sampling = 1.*exchange = "none"'):
        events_of(summed({"exchange": exchange}, sampling=0.1), 1.5)
    assert len(events_of(summed({"exchange": exchange}), 1.5)) == 2


def test_colluders_and_survivors_have_the_designs_defaults() -> None:
    assert survivors(study(3)) == (3, 1)
    assert survivors(study(26)) == (26, 5)
    assert survivors(study(10, least_survivors=7, colluders=2)) == (7, 2)
    alone = survivors(study(1, colluders=None))
    assert alone == (1, 0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"delta": 1e-3}, r"above 1/\(10 n\)"),
        ({"least_survivors": 3, "colluders": 3}, "no honest site"),
        ({"least_survivors": 11}, "more than the study's 10 sites"),
        ({"noise_multiplier": 1.0, "epsilon": 0.5}, "less than one round"),
        ({"clip_units": 1, "epsilon": 100.0, "parameters": 4}, "clip_units = "),
        ({"clip_units": 1 << 20}, "smaller clip_units"),
        ({"framework": "fcl"}, None),
    ],
)
def test_a_promise_that_cannot_hold_is_refused_with_what_to_change(
    changed: dict[str, object], said: str | None
) -> None:
    asked = study(**changed)  # type: ignore[arg-type]
    if said is None:
        assert budget(asked).private  # without feature exchange FCL sends weights alone
        return
    with pytest.raises(SettingsError, match=said):
        budget(asked)


def test_the_grid_that_is_named_is_fine_enough() -> None:
    with pytest.raises(SettingsError) as refused:
        budget(study(clip_units=1, epsilon=100.0, parameters=4))
    units = int(str(refused.value).split("clip_units = ")[1].split()[0])
    assert budget(study(clip_units=units, epsilon=100.0, parameters=4)).private


def test_what_is_charged_is_the_norm_after_rounding() -> None:
    """Rounding adds up to half a unit a coordinate, root mean square: at d = 500,000 far more than one unit."""
    asked = study(parameters=500_000)
    drawn = np.random.default_rng(7).standard_normal(500_000)
    vector, factor = rotate_clipped(np.asarray(10 * drawn, np.float32), bytes(32), 1024.0)
    grid = Grid(32, 1.0, 1024.0, 2**31 - 1)
    norms = [integer_norm(grid, vector, bytes([key]) * 32, factor) for key in range(3)]
    assert min(norms) > 1024 + 30
    assert max(norms) <= rounded_bound(asked)
    draw_key(grid, vector, rounded_bound(asked), bytes, factor)
    event = events_of(asked, 5.0)[0]
    assert isinstance(event, DiscreteGaussian)
    assert event.sensitivity == 2 * rounded_bound(asked)
    assert event.dimension == 500_000


def test_releases_without_noise_are_named() -> None:
    vectors = study(framework="fcl").model_copy(update={"pretrain": PretrainSettings(), "release_metrics": True})
    with pytest.raises(SettingsError, match=r"features: .*exchange.*metrics: .*release_metrics"):
        budget(vectors)


def test_a_study_without_a_cohort_has_no_budget() -> None:
    with pytest.raises(SettingsError, match="cohort"):
        budget(Study())


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"epsilon": 8.0}, "epsilon without noise"),
        ({"enabled": True, "epsilon": 8.0, "noise_multiplier": 0.0}, "noise_multiplier = 0"),
        ({"enabled": True}, "without a cap"),
        ({"enabled": True, "epsilon": 8.0, "unit": "slice"}, 'write unit = "patient"'),
        ({"enabled": True, "epsilon": 8.0, "sampling": 0.1}, 'contribution = "patient-sum"'),
        ({"enabled": True, "epsilon": 0.0}, "greater than 0"),
    ],
)
def test_a_section_that_is_no_guarantee_does_not_parse(section: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_study({"privacy": section})


def test_federated_fine_tuning_is_charged_too() -> None:
    tuned = study().model_copy(update={"finetune": FinetuneSettings(modes=("federated",), labelled=(4,), rounds=5)})
    counts = {event.flow: event.count for event in events_of(tuned, 5.0)}
    assert counts == {"weights": 10 + 2 * 5, "target": 9}  # both starts


def test_no_node_runs_a_study_without_the_noise_it_asks_for() -> None:
    with pytest.raises(SettingsError, match="nodes cannot add its noise yet"):
        require_no_noise(study())
    require_no_noise(study(enabled=False, epsilon=None))


@pytest.mark.parametrize(("exchange", "flow"), [("prototypes", "prototypes"), ("secagg-prototypes", "prototype-sum")])
def test_prototypes_that_nothing_noises_make_the_study_infinite_and_are_named(exchange: str, flow: str) -> None:
    asked = study(framework="fcl").model_copy(update={"pretrain": PretrainSettings(exchange=exchange)})
    cost = spent(events_of(asked, 3.0), 1e-6, reference=False)
    assert math.isinf(cost.epsilon)
    assert any(flow in named for named in cost.infinite)
