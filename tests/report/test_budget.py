from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fedsecure.audit.log import Entry
from fedsecure.config import FinetuneSettings, Member, PretrainSettings, PrivacySettings, SecuritySettings, Study, dump
from fedsecure.egress import NON_PRIVATE, REPEAT, SentRow
from fedsecure.errors import SettingsError
from fedsecure.node.store import Store
from fedsecure.privacy.accountant import spent
from fedsecure.privacy.chain import Cap, LedgerBroken
from fedsecure.privacy.events import DiscreteGaussian, NonPrivate
from fedsecure.privacy.gdp import mu_of
from fedsecure.privacy.ledger import open_ledger
from fedsecure.report.budget import NOTHING, read, write
from fedsecure.report.spending import LEDGER, RECORD

ONE_ALONE = DiscreteGaussian(
    flow="weights", sensitivity=20.0, share_sigma=40.0, shares=1, dimension=100, distance=1e-36
)
ONE = DiscreteGaussian(flow="weights", sensitivity=20.0, share_sigma=40.0, shares=4, dimension=100, distance=1e-36)


def study(**privacy: object) -> Study:
    return Study(
        framework="fclopt",
        sites=tuple(Member(name=name, weight=50) for name in ("a", "b")),
        pretrain=PretrainSettings(exchange="none"),
        finetune=FinetuneSettings(modes=("local",)),
        privacy=PrivacySettings(**privacy),
        security=SecuritySettings(secagg=False),
    )


def site(run: Path, name: str, asked: Study) -> Path:
    folder = run / "sites" / name
    folder.mkdir(parents=True)
    (folder / "study.json").write_bytes(dump(asked))
    return folder


def record(folder: Path, *rows: tuple[str, str, str, int]) -> None:
    """(kind, flow, event, round) of what a site sent."""
    store = Store(folder)
    for kind, flow, event, round_ in rows:
        store.log(SentRow(kind, flow, event, 0, round_, "coordinator", 10, bytes(32)), Entry(b""))
    store.close()


def noisy(run: Path, charges: int = 3) -> Study:
    asked = study(enabled=True, epsilon=8.0)
    for name in ("a", "b"):
        folder = site(run, name, asked)
        record(folder, *(("release", "weights", "discrete-gaussian", round_) for round_ in range(charges)))
        with open_ledger(folder / LEDGER) as ledger:
            ledger.open_study(asked.digest().hex(), [f"patient-{name}1", f"patient-{name}2"], Cap(8.0, 1e-6))
            for round_ in range(charges):
                ledger.charge(asked.digest().hex(), 0, round_, round_.to_bytes(32, "big"), [ONE])
            ledger.withdraw(asked.digest().hex(), f"patient-{name}2")
    return asked


def bare(run: Path, event: str = NON_PRIVATE) -> None:
    for name in ("a", "b"):
        record(
            site(run, name, study()),
            ("release", "weights", event, 0),
            ("release", "target", event, 0),
            ("control", "ready", "none", 0),
            ("release", "weights", REPEAT, 0),
        )


def test_a_run_without_noise_is_infinite_and_says_what_left(tmp_path: Path) -> None:
    bare(tmp_path)
    found = read(tmp_path)
    assert found.accounted == math.inf
    assert found.claim == (
        "No guarantee (epsilon is infinite): target: released without noise; weights: released without noise."
    )
    assert found.meaning.auc == 1
    assert [(line.flow, line.releases, line.planned) for line in found.sites[0].flows] == [
        ("target", 1, 9),
        ("weights", 1, 10),
    ]


def test_a_run_without_noise_claims_nothing_of_noise(tmp_path: Path) -> None:
    bare(tmp_path / "bare")
    noisy(tmp_path / "noisy")
    plain, noised = read(tmp_path / "bare"), read(tmp_path / "noisy")
    said = [*plain.trust, *(answer.answer for answer in plain.questions)]
    for untrue in ("adds its share", "is added to integers", "breaks its chain", "charged at", "hockey-stick"):
        assert not any(untrue in sentence for sentence in said)
        assert any(untrue in s for s in [*noised.trust, *(answer.answer for answer in noised.questions)])
    assert [answer.question for answer in plain.questions] == [answer.question for answer in noised.questions]


def test_a_ledger_is_reported_as_it_stands(tmp_path: Path) -> None:
    noisy(tmp_path)
    found = read(tmp_path)
    expected = spent([ONE] * 3, 1e-6).epsilon
    assert found.accounted == found.sites[0].spent.epsilon == expected
    assert found.design_target == 8
    assert found.against_coordinator == found.sites[0].alone.epsilon == spent([ONE_ALONE] * 3, 1e-6).epsilon
    assert found.against_coordinator > 2 * found.accounted
    assert found.meaning.mu == pytest.approx(mu_of(found.against_coordinator, 1e-6))
    assert f"it is epsilon = {found.against_coordinator:.3g}" in found.claim
    assert found.audited_lower_bound is None
    assert found.sites[0].left == pytest.approx(8 - expected)
    assert found.sites[0].withdrawals == 1
    assert f"epsilon = {expected:.3g}" in found.claim


def test_page_and_json_say_the_same_and_neither_names_a_path(tmp_path: Path) -> None:
    noisy(tmp_path / "run")
    page, raw = write(read(tmp_path / "run"), tmp_path)
    text, data = page.read_text(), json.loads(raw.read_bytes())
    assert data["accounted"] == pytest.approx(spent([ONE] * 3, 1e-6).epsilon)
    for shown in (
        data["claim"],
        "Design target",
        "Accountant",
        "Audit",
        "against the coordinator",
        "not measured",
        "NIST",
        "sampler",
    ):
        assert shown in text
    needed = {"unit", "adjacency", "delta", "meaning", "accountant", "second_value", "released", "noise", "sampling"}
    needed |= {"clipping", "secure_aggregation", "tuning", "utility", "trust", "limits", "questions", "commit"}
    assert needed <= set(data)
    for place in (str(tmp_path), "patient-a1"):
        assert place not in text
        assert place not in raw.read_text()
    assert "<script" not in text


def test_infinity_is_a_word_in_json(tmp_path: Path) -> None:
    bare(tmp_path)
    _, raw = write(read(tmp_path), tmp_path)
    data = json.loads(raw.read_bytes())
    assert data["accounted"] == data["against_coordinator"] == data["second_value"] == "infinite"
    assert data["sites"][0]["spent"]["rdp"] == data["sites"][0]["spent"]["mu"] == "infinite"


def test_a_page_without_a_guarantee_shows_no_accountants_numbers(tmp_path: Path) -> None:
    """RDP beside it 0, and a delta in parts, of mechanisms that never ran."""
    bare(tmp_path / "bare")
    noisy(tmp_path / "noisy")
    plain, noised = (write(read(tmp_path / run), tmp_path / run)[0].read_text() for run in ("bare", "noisy"))
    for untrue in ("beside it", "(mechanisms)", "(sampler)"):
        assert untrue not in plain
        assert untrue in noised
    assert "beside it PLD, which takes the noise for continuous" in noised
    for page in (plain, noised):
        assert "takes no part in what comes after" not in page  # no node looks up who withdrew
        assert "do not look up who withdrew" in page


def test_the_second_value_is_another_accountants(tmp_path: Path) -> None:
    noisy(tmp_path)
    found = read(tmp_path)
    assert found.accountant.startswith("RDP")
    assert found.second_value == spent([ONE] * 3, 1e-6).pld != found.accounted


@pytest.mark.parametrize(("exchange", "clipped"), [("prototypes", True), ("secagg-prototypes", True), ("none", False)])
def test_what_the_gate_clips_without_noise_is_said(tmp_path: Path, exchange: str, clipped: bool) -> None:
    settings = PretrainSettings(exchange=exchange, prototype_clip=0.5)  # type: ignore[arg-type]
    asked = study().model_copy(update={"framework": "fcl", "pretrain": settings})
    record(site(tmp_path, "a", asked), ("release", "weights", NON_PRIVATE, 0))
    found = read(tmp_path)
    assert ("each row of entries for prototypes to C_f = 0.5" in found.clipping) is clipped
    assert ("Nothing was clipped for privacy." in found.trust) is not clipped
    assert any("a row is one patient is the trainer's promise" in line for line in found.trust) is clipped


def test_what_cannot_be_read_has_no_budget(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no run"):
        read(tmp_path)
    bare(tmp_path / "strange", event="gaussian")
    with pytest.raises(SettingsError, match=r"a released target in round 1 of stage 0 with noise, .* not charged"):
        read(tmp_path / "strange")
    noisy(tmp_path / "torn")
    ledger = tmp_path / "torn" / "sites" / "a" / LEDGER
    ledger.write_bytes(ledger.read_bytes()[:100] + bytes(4096))
    for leftover in ledger.parent.glob(f"{LEDGER}-*"):
        leftover.unlink()
    with pytest.raises(LedgerBroken):
        read(tmp_path / "torn")


def test_a_site_without_a_record_has_no_budget_rather_than_none_spent(tmp_path: Path) -> None:
    site(tmp_path / "new", "a", study())
    noisy(tmp_path / "lost")
    (tmp_path / "lost" / "sites" / "b" / RECORD).unlink()
    for run, name in (("new", "a"), ("lost", "b")):
        with pytest.raises(SettingsError, match=rf"{name} has no record .* budget is unknown"):
            read(tmp_path / run)
    (tmp_path / "lost" / "sites" / "b" / RECORD).write_bytes(b"no database" * 100)
    with pytest.raises(SettingsError, match=r"b's record .* cannot be read: its budget is unknown"):
        read(tmp_path / "lost")


def test_a_ledger_does_not_replace_the_record_of_what_was_sent(tmp_path: Path) -> None:
    """An empty ledger beside releases without noise, and a charge for a round that went out bare."""
    bare(tmp_path / "empty")
    open_ledger(tmp_path / "empty" / "sites" / "a" / LEDGER).close()
    assert read(tmp_path / "empty").accounted == math.inf
    noisy(tmp_path / "mixed")
    record(tmp_path / "mixed" / "sites" / "b", ("release", "weights", NON_PRIVATE, 2))
    found = read(tmp_path / "mixed")
    assert found.accounted == math.inf
    assert "weights: released without noise" in found.claim
    assert [line.releases for line in found.sites[1].flows] == [4]


def test_what_the_ledger_was_charged_for_as_bare_is_counted_once(tmp_path: Path) -> None:
    bare(tmp_path)
    name = study().digest().hex()
    with open_ledger(tmp_path / "sites" / "a" / LEDGER) as ledger:
        ledger.open_study(name, ["patient-a1"], None)
        ledger.charge(name, 0, 0, bytes(32), [NonPrivate(flow="weights", reason="no noise was asked for")])
    assert [(line.flow, line.releases) for line in read(tmp_path).sites[0].flows] == [("target", 1), ("weights", 1)]


@pytest.mark.parametrize("more", [("weights", 3), ("weights", 0), ("target", 0)])
def test_noise_that_was_not_charged_leaves_the_budget_unknown(tmp_path: Path, more: tuple[str, int]) -> None:
    """Another round, a second release of a round that was charged once, another flow."""
    noisy(tmp_path)
    flow, round_ = more
    record(tmp_path / "sites" / "a", ("release", flow, "discrete-gaussian", round_))
    with pytest.raises(SettingsError, match=f"a released {flow} in round {round_ + 1} .* not charged"):
        read(tmp_path)


def test_a_run_that_released_nothing_says_so_and_claims_no_guarantee(tmp_path: Path) -> None:
    record(site(tmp_path, "a", study()), ("control", "ready", "none", 0))
    found = read(tmp_path)
    assert found.claim == NOTHING
    assert found.released == ()
