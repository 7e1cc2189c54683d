from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from fedsecure import progress
from fedsecure.cli.show import Display
from fedsecure.plan import Init, Stage, StageKind

STAGES = (
    Stage(StageKind.PRETRAIN, 2),
    Stage(StageKind.LOCAL, 0, Init.PRETRAINED, 4),
)
SITES = ("north", "south")


def played(**options: object) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    terminal = bool(options.pop("terminal", False))
    console = Console(file=out, force_terminal=terminal, width=100, legacy_windows=False, _environ={})
    return Display(STAGES, SITES, "coordinator", console=console, **options), out  # type: ignore[arg-type]


def play_round(display: Display, stage: int, round_: int, sites: tuple[str, ...] = SITES) -> None:
    at = {"stage": stage, "round": round_}
    name, rounds = STAGES[stage].name, STAGES[stage].rounds
    display.on("coordinator", progress.RoundStarted(**at, name=name, rounds=rounds))
    for i, site in enumerate(sites):
        display.on(site, progress.RoundStarted(**at, name=name, rounds=rounds))
        for done in (1, 2):
            loss = (2.0 + 2 * i) / done if round_ < rounds else None  # means over steps: 1.5 and 3.0
            display.on(site, progress.Step(**at, done=done, total=2, loss=loss))
        display.on(site, progress.Sent(**at, kind="release", flow="weights", size=1_000_000, peer="coordinator"))
        display.on(site, progress.RoundEnded(**at, seconds=3.0, sites=1))


def close_round(display: Display, stage: int, round_: int) -> None:
    at = {"stage": stage, "round": round_}
    display.on("coordinator", progress.Sent(**at, kind="publish", flow="model", size=500_000, peer="north"))
    display.on("coordinator", progress.RoundEnded(**at, seconds=4.25, sites=2))


def test_one_plain_line_per_round_and_stage() -> None:
    display, out = played()
    with display:
        for round_ in (0, 1):
            play_round(display, 0, round_)
            close_round(display, 0, round_)
        play_round(display, 0, 2)
        for site, accuracy in (("north", 0.5), ("south", 0.6)):
            display.on(site, progress.Measured(stage=0, round=2, metric="knn_partition_accuracy", value=accuracy))
        close_round(display, 0, 2)
        play_round(display, 1, 0)
        # Means over a site's rows first: (0.4 + 0.6) / 2 = 0.5 and 0.9, so 0.7, not 0.633.
        for site, dice in (("north", 0.4), ("north", 0.6), ("south", 0.9)):
            display.on(site, progress.Scored(stage=1, round=0, subject="secret-id", structure="LV", dice=dice))
        close_round(display, 1, 0)
        display.on("coordinator", progress.Stopped(stage=1, round=0, reason="finished"))
    assert out.getvalue().splitlines() == [
        "pre-training  round 1/2  loss 2.2500  4.2 s  2.5 MB sent  2 sites",
        "pre-training  round 2/2  loss 2.2500  4.2 s  2.5 MB sent  2 sites",
        "pre-training  done  k-NN accuracy 0.550  4.2 s",
        "local fine-tuning, N=4, pretrained  done  Dice 0.700  4.2 s",
    ]


SUM = {"stage": 0, "round": 0}


def test_a_secure_sum_is_on_the_rounds_line_and_who_was_late_on_one_of_its_own() -> None:
    display, out = played()
    with display:
        display.on("coordinator", progress.SumAsked(**SUM, attempt=0, step="share-keys", sites=SITES))
        late = progress.SumStepEnded(**SUM, attempt=0, step="share-keys", asked=2, late=("south",), seconds=60.0)
        display.on("coordinator", late)
        done = {"flows": ("weights",), "sites": 2, "survivors": ("north",), "agreed": 1}
        display.on("coordinator", progress.Summed(**SUM, **done, attempts=2, seconds=61.5))
        close_round(display, 0, 0)
    assert out.getvalue().splitlines() == [
        "secure sum: south was late with share-keys",
        "pre-training  round 1/2  loss not measured here  4.2 s  500 kB sent  2 sites  "
        "secure sum of 1/2 in 61.5 s, attempt 2",
    ]


def test_bars_name_the_step_of_a_sum_and_whom_it_waits_for() -> None:
    display, _ = played(terminal=True)
    with display:
        display.on("coordinator", progress.SumAsked(**SUM, attempt=0, step="masked-input", sites=SITES))
        display.on("coordinator", progress.SumHeard(**SUM, step="masked-input", site="north"))
        notes = {task.description: task.fields["note"] for task in display._bars.tasks}
        many = tuple(f"s{number}" for number in range(6))
        display.on("coordinator", progress.SumAsked(**SUM, attempt=0, step="unmask-shares", sites=many))
        (overall, *_) = display._bars.tasks
    assert notes == {
        "all rounds": "secure sum, masked-input: waits for south", "north": "", "south": "waited for: masked-input"
    }  # fmt: skip
    assert overall.fields["note"] == "secure sum, unmask-shares: waits for s0, s1, s2, s3 and 2 more"


def test_a_coordinator_alone_says_what_it_does_not_know() -> None:
    display, out = played()
    with display:
        close_round(display, 0, 0)
        close_round(display, 1, 0)
    assert out.getvalue().splitlines() == [
        "pre-training  round 1/2  loss not measured here  4.2 s  500 kB sent  2 sites",
        "local fine-tuning, N=4, pretrained  done  not scored here  4.2 s",
    ]


def test_a_site_watches_itself() -> None:
    out = io.StringIO()
    with Display(STAGES, ("north",), "north", console=Console(file=out, width=100)) as display:
        play_round(display, 0, 0, sites=("north",))
    assert out.getvalue() == "pre-training  round 1/2  loss 1.5000  3.0 s  1 MB sent  1 site\n"


def test_quiet_prints_only_what_went_wrong() -> None:
    display, out = played(quiet=True)
    with display:
        play_round(display, 0, 0)
        display.on("north", progress.Refused(stage=0, round=0, rule="over the [cap]", peer="coordinator"))
        close_round(display, 0, 0)
        display.on("north", progress.Stopped(stage=0, round=0, reason="vetoed"))
        display.on("south", progress.Stopped(stage=0, round=0, reason="finished"))
    assert out.getvalue() == "north: refused over the [cap] (from coordinator)\nnorth: vetoed\n"


def test_no_control_codes_and_no_wrapping_where_it_is_no_terminal() -> None:
    out = io.StringIO()
    with Display(STAGES, SITES, "coordinator", console=Console(file=out, width=20)) as display:
        play_round(display, 0, 0)
        close_round(display, 0, 0)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("\n") == 1


def test_live_bars_on_a_terminal() -> None:
    display, out = played(terminal=True)
    with display:
        play_round(display, 0, 1)
        display._bars.refresh()
        shown = out.getvalue()
        close_round(display, 0, 1)
    assert "all rounds" in shown
    assert "1/4" in shown  # one round of 2 + evaluation + 1 is behind us
    assert "pre-training, round 2/2" in shown
    assert all(site in shown for site in SITES)
    assert "pre-training  round 2/2  loss 2.2500" in out.getvalue()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_terminal_comes_back(error: type[BaseException]) -> None:
    display, out = played(terminal=True)

    def cut_off() -> None:
        with display:
            play_round(display, 0, 0)
            raise error

    with pytest.raises(error):
        cut_off()
    hidden, shown = out.getvalue().rfind("\x1b[?25l"), out.getvalue().rfind("\x1b[?25h")
    assert -1 < hidden < shown


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'monai', 'matplotlib', 'scipy', 'jinja2'}"
    code = f"import sys, fedsecure.cli.show; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
