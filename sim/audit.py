"""`fedsecure audit security`: every abuse and fault that we know, against the user's own study, in one table.

The study's own number of sites, network, framework and limits, with phantom patients; how long it trains is cut, as
what is tried has nothing to do with it. Bad lines and abuse must leave the final model as it is without them, bit by
bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from fedsecure.config import LEAST_SUMMED, DataSettings, Study, load
from fedsecure.node.averaging import model_file
from fedsecure.node.membership import open_own
from fedsecure.node.wiring import COORDINATOR
from fedsecure.node.workbench import ENCODER
from fedsecure.plan import schedule
from protocols.transport.base import ClientTransport, ServerTransport
from sim.adversary import Insider, Row, at_the_door, on_paper, on_the_wire
from sim.arena import Arena
from sim.errors import FederationFailed
from sim.faults import Faults, FaultyClient, FaultyServer, Network, TappedClient, TappedServer
from sim.renegade import AT_A_SITE, openings
from sim.world import World, build, coordinator_folder

PATIENTS: Final = 3
SIZE: Final = 48  # pixels of a phantom
CUT_TURNS: Final = 60  # that a partition lasts
BAD_LINES: Final = {
    "drop": Faults(drop=0.2),
    "delay and reorder": Faults(delay=0.3),
    "duplicate": Faults(duplicate=0.5),
    "corrupt": Faults(corrupt=0.2),
    "truncate": Faults(truncate=0.2),
}


class Audit(NamedTuple):
    rows: tuple[Row, ...]
    reduced: tuple[str, ...]  # settings of the study that were cut

    @property
    def passed(self) -> bool:
        return all(row.refused_by for row in self.rows)


def shortened(study: Study) -> tuple[Study, tuple[str, ...]]:
    """The study with little to compute and no deadline, and which settings that changed."""
    pretrain = study.pretrain.model_copy(update={"rounds": 2, "local_steps": 1, "batch": min(8, study.pretrain.batch)})
    finetune = study.finetune.model_copy(
        update={"labelled": (1,), "modes": ("federated",), "steps": 1, "rounds": 2, "batch": 2}
    )
    data = DataSettings(size=32)
    update = {
        "start": "pretrain", "encoder": None,
        "pretrain": pretrain, "finetune": finetune, "data": data, "baseline": False, "round_deadline_s": None,
        "join_deadline_s": None, "evaluation_deadline_s": None,
    }  # fmt: skip
    short = study.model_copy(update=update)
    return short, tuple(name for name in update if getattr(short, name) != getattr(study, name))


def audit(study: Study, run: Path, cache: Path) -> Audit:
    """Run everything. run: a new folder for the nodes. Raises SettingsError, DataError."""
    short, reduced = shortened(study)
    least = LEAST_SUMMED if study.security.secagg else 2
    names = [member.name for member in study.sites] or [f"site-{number + 1}" for number in range(least)]
    world = World(source=None, sites=len(names), scheme="random", phantom_patients=PATIENTS, phantom_size=SIZE)
    short = short.model_copy(update={"sites": ()})
    undisturbed = _finished(run / "undisturbed", world, short, cache)
    rows = [*_insider(run / "abuse", world, short, cache, undisturbed)]
    rows += _renegade(run / "renegade", world, short, cache, undisturbed)
    for name, faults in BAD_LINES.items():
        rows.append(_bad_line(name, faults, run / name.replace(" ", "-"), world, short, cache, undisturbed))
    rows.append(_partition(run / "partition", world, short, cache, undisturbed))
    return Audit((*rows, *at_the_door(), *on_paper()), reduced)


def final_models(run: Path) -> tuple[bytes, ...]:
    """What a federation ended with: the encoder, and the last stage's model."""
    folder = coordinator_folder(run)
    stages = schedule(load(Study, (folder / "study.json").read_bytes()))
    last = folder / model_file(len(stages) - 1, stages[-1].rounds)
    return tuple(path.read_bytes() for path in (folder / ENCODER, last) if path.exists())


def _finished(run: Path, world: World, study: Study, cache: Path) -> tuple[bytes, ...]:
    arena = Arena(run, _laid_out(run, world, study, cache))
    arena.start(*arena.folders)
    arena.finish()
    ended = arena.outcomes()
    arena.close()
    if set(ended.values()) != {"finished"}:
        raise FederationFailed("the study does not come to its end even where nobody disturbs it")
    return final_models(run)


def _laid_out(run: Path, world: World, study: Study, cache: Path) -> Study:
    return build(world, study, run, cache, lambda _: None)


def _insider(run: Path, world: World, study: Study, cache: Path, expected: tuple[bytes, ...]) -> list[Row]:
    def tapped(_: str, inner: ClientTransport) -> ClientTransport:
        return TappedClient(inner)

    arena = Arena(run, _laid_out(run, world, study, cache), wrap_client=tapped)
    arena.start(*arena.folders)
    last = arena.study.sites[-1].name
    arena.until(lambda: any(b"release" in frame[2:40] for frame in arena.ends[last].sent))  # type: ignore[attr-defined]
    own = open_own(arena.folders[last])
    arena.shells[COORDINATOR].pump(0.0)  # what the honest half has sent, before what the other half sends
    rows = list(on_the_wire(arena, Insider(arena, last, own.identity, _tap(arena.ends[last]))))
    arena.end(COORDINATOR)  # started again it has forgotten how often the insider claimed to have started
    arena.start(COORDINATOR)
    return [*rows, _ended(arena, run, expected)]


def _renegade(run: Path, world: World, study: Study, cache: Path, expected: tuple[bytes, ...]) -> list[Row]:
    """The coordinator against its first site, when that one has done a round."""
    taps: list[TappedServer] = []

    def tapped(inner: ServerTransport) -> ServerTransport:
        taps.append(TappedServer(inner))
        return taps[-1]

    arena = Arena(run, _laid_out(run, world, study, cache), wrap_server=tapped)
    arena.start(*arena.folders)
    victim = arena.study.sites[0].name
    line = taps[0].line(victim)
    arena.until(lambda: len(openings(line.sent)) > 1)
    arena.turn(2)
    identity = open_own(arena.folders[COORDINATOR]).identity
    rows = list(on_the_wire(arena, Insider(arena, COORDINATOR, identity, line, victim), AT_A_SITE))
    return [*rows, _ended(arena, run, expected)]


def _tap(line: ClientTransport) -> TappedClient:
    if not isinstance(line, TappedClient):
        raise TypeError("an insider's line is tapped")
    return line


def _ended(arena: Arena, run: Path, expected: tuple[bytes, ...]) -> Row:
    """Whether the study came to its end for everybody, as if nothing had happened."""
    arena.finish()
    ended = set(arena.outcomes().values())
    arena.close()
    whole = ended == {"finished"} and final_models(run) == expected
    return Row("all of these together", "", "all nodes" if whole else "", "finished, with the same model", "")


def _bad_line(name: str, faults: Faults, run: Path, world: World, study: Study, cache: Path,
              expected: tuple[bytes, ...]) -> Row:  # fmt: skip
    network = Network(faults, seed=1)

    def server(inner: ServerTransport) -> ServerTransport:
        return FaultyServer(inner, network)

    def client(node: str, inner: ClientTransport) -> ClientTransport:
        return FaultyClient(inner, network, node)

    arena = Arena(run, _laid_out(run, world, study, cache), client, server, network)
    arena.start(*arena.folders)
    arena.until(lambda: bool(arena.outcomes()[COORDINATOR]), 20_000)
    arena.close()
    rules = sorted({event.rule for _, event in arena.refused})
    same = final_models(run) == expected
    line = next(
        (line for log in arena.logs.values() for line in log.getvalue().splitlines() if '"refused"' in line), ""
    )
    return Row(f"lines that {name}", "the network", "both ends" if same else "", "; ".join(rules) or "sent again", line)


def _partition(run: Path, world: World, study: Study, cache: Path, expected: tuple[bytes, ...]) -> Row:
    network = Network()
    arena = Arena(
        run, _laid_out(run, world, study, cache), lambda node, inner: FaultyClient(inner, network, node),
        lambda inner: FaultyServer(inner, network),
    )  # fmt: skip
    arena.start(*arena.folders)
    arena.turn(4)
    network.cut.add(arena.study.sites[0].name)
    arena.turn(CUT_TURNS)
    network.cut.clear()
    arena.finish(20_000)
    arena.close()
    same = final_models(run) == expected
    return Row("partition, and its end", "the network", "all nodes" if same else "", "goes on, with the same model", "")
