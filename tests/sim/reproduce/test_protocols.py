from __future__ import annotations

import pytest

from fedsecure.config import DataSettings, FinetuneSettings, ModelSettings, PretrainSettings
from fedsecure.errors import SettingsError
from sim.reproduce.protocols import PaperTable, Protocol, load_paper, load_protocol, over, parse

PROTOCOL = load_protocol()


def test_the_committed_protocol_has_the_experiments_and_budgets_of_the_command() -> None:
    assert set(PROTOCOL.experiments) == {"local", "federated", "transfer", "traffic", "ablation"}
    assert set(PROTOCOL.budgets) == {"smoke", "cpu", "gpu", "paper"}
    assert {name: budget.seeds for name, budget in PROTOCOL.budgets.items()} == {
        "smoke": (20,),
        "cpu": (20, 21, 22, 23),
        "gpu": (30, 31, 32, 33),
        "paper": (40,),
    }
    assert PROTOCOL.experiments["local"].arms == PROTOCOL.experiments["federated"].arms


@pytest.mark.parametrize("name", ["smoke", "cpu", "gpu", "paper"])
def test_a_budget_writes_all_that_training_reads_so_that_no_default_decides(name: str) -> None:
    study = PROTOCOL.budgets[name].study
    for section, settings in (("model", ModelSettings), ("pretrain", PretrainSettings), ("finetune", FinetuneSettings)):
        assert set(study[section]) <= set(settings.model_fields)
    assert set(study["model"]) == set(ModelSettings.model_fields) - {"precision"}  # float32 but in arms that say so
    assert set(study["finetune"]) == set(FinetuneSettings.model_fields) - {"consistency"}  # off but in arms that say so
    assert {"size", "split_seed"} <= set(study["data"]) <= set(DataSettings.model_fields)


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    paper = load_paper()
    assert set(paper) == {"local", "federated", "transfer"}
    for name, table in paper.items():
        assert "read from an image" in table.source
        assert set(table.rows) <= {arm.name for arm in PROTOCOL.arms}, name
        assert all(len(row) == len(table.labelled) == 4 for row in table.rows.values())
    assert paper["local"].dice("fcl", 1) == (0.506, 0.056)
    assert paper["federated"].dice("random", 8) == (0.834, 0.011)
    assert paper["local"].dice("fclopt", 1) is None
    assert paper["local"].dice("fcl", 3) is None


def test_settings_are_laid_over_each_other_table_by_table_and_left_as_they_were() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 1}
    assert over(base, {"a": {"y": 3}}, {"c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}
    assert base == {"a": {"x": 1, "y": 2}, "b": 1}


ARM = '[[arms]]\nname = "{0}"\ntitle = "t"\nframework = "fcl"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("edition = ", "Invalid value"),
        ("edition = 0", ""),
        ("surprise = 1", ""),
        ("edition = 1\n" + 2 * ARM.format("random") + "[sources]\n[budgets]\n[experiments]\n", "stands twice"),
        (
            "edition = 1\n" + ARM.format("random") + "[sources]\n[budgets]\n"
            '[experiments.local]\ntitle = "t"\nmodes = ["local"]\narms = ["random", "gone"]\n',
            "nowhere described: gone",
        ),
        (
            "edition = 1\n" + ARM.format("fcl") + "[sources]\n[budgets]\n"
            '[experiments.local]\ntitle = "t"\nmodes = ["local"]\narms = ["fcl"]\n',
            "does not begin with the random start",
        ),
    ],
)
def test_a_protocol_that_does_not_hold_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=r"^protocol\.toml does not hold") as caught:
        parse(Protocol, text, "protocol.toml")
    assert said in str(caught.value)


def test_a_paper_table_has_no_other_fields() -> None:
    with pytest.raises(SettingsError):
        parse(PaperTable, 'source = "x"\nlabelled = [1]\n[rows]\n[more]\n', "paper.toml")
