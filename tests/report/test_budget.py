from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fedsecure.config import FinetuneSettings, Member, PretrainSettings, PrivacySettings, Study, dump
from fedsecure.egress import NON_PRIVATE, REPEAT, SentRow
from fedsecure.errors import SettingsError
from fedsecure.node.store import Store
from fedsecure.privacy.accountant import spent
from fedsecure.privacy.events import DiscreteGaussian
from fedsecure.privacy.ledger import Cap, LedgerBroken, open_ledger
from fedsecure.report.budget import LEDGER, read, write

ONE = DiscreteGaussian(flow="weights", sensitivity=20.0, share_sigma=40.0, shares=4, dimension=100, distance=1e-36)


def study(**privacy: object) -> Study:
    return Study(
        framework="fclopt",
        sites=tuple(Member(name=name, weight=50) for name in ("a", "b")),
        pretrain=PretrainSettings(exchange="none"),
        finetune=FinetuneSettings(modes=("local",)),
        privacy=PrivacySettings(**privacy),
    )


def site(run: Path, name: str, asked: Study) -> Path:
    folder = run / "sites" / name
    folder.mkdir(parents=True)
    (folder / "study.json").write_bytes(dump(asked))
    return folder


def noisy(run: Path, charges: int = 3) -> Study:
    asked = study(enabled=True, epsilon=8.0)
    for name in ("a", "b"):
        folder = site(run, name, asked)
        with open_ledger(folder / LEDGER) as ledger:
            ledger.open_study(asked.digest().hex(), [f"patient-{name}1", f"patient-{name}2"], Cap(8.0, 1e-6))
            for round_ in range(charges):
                ledger.charge(asked.digest().hex(), 0, round_, round_.to_bytes(32, "big"), [ONE])
            ledger.withdraw(asked.digest().hex(), f"patient-{name}2")
    return asked


def bare(run: Path, event: str = NON_PRIVATE) -> None:
    for name in ("a", "b"):
        store = Store(site(run, name, study()))
        for flow, kind, what in (
            ("weights", "release", event),
            ("target", "release", event),
            ("ready", "control", "none"),
        ):
            store.log(SentRow(kind, flow, what, 0, 0, "coordinator", 10, bytes(32)))
        store.log(SentRow("release", "weights", REPEAT, 0, 0, "coordinator", 10, bytes(32)))
        store.close()


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
    assert found.audited_lower_bound is None
    assert found.sites[0].left == pytest.approx(8 - expected)
    assert found.sites[0].withdrawals == 1
    assert f"epsilon = {expected:.3g}" in found.claim


def test_page_and_json_say_the_same_and_neither_names_a_path(tmp_path: Path) -> None:
    noisy(tmp_path / "run")
    page, raw = write(read(tmp_path / "run"), tmp_path)
    text, data = page.read_text(), json.loads(raw.read_bytes())
    assert data["accounted"] == pytest.approx(spent([ONE] * 3, 1e-6).epsilon)
    for shown in (data["claim"], "Design target", "Accountant", "Audit", "not measured", "NIST", "sampler"):
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
    assert json.loads(raw.read_bytes())["accounted"] == "infinite"


def test_what_cannot_be_read_has_no_budget(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no run"):
        read(tmp_path)
    bare(tmp_path / "strange", event="gaussian")
    with pytest.raises(SettingsError, match="has no ledger"):
        read(tmp_path / "strange")
    noisy(tmp_path / "torn")
    ledger = tmp_path / "torn" / "sites" / "a" / LEDGER
    ledger.write_bytes(ledger.read_bytes()[:100] + bytes(4096))
    for leftover in ledger.parent.glob(f"{LEDGER}-*"):
        leftover.unlink()
    with pytest.raises(LedgerBroken):
        read(tmp_path / "torn")
