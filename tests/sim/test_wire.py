"""A whole federation over real sockets, captured: every byte of it is on its nodes' records, and both ends agree."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedsecure.audit.testimony import Status
from fedsecure.audit.verify import verify
from fedsecure.cli.audit import app
from fedsecure.node.store import Store
from fedsecure.node.wiring import COORDINATOR
from sim.federation import federate

from ..audit.packets import on_loopback, pcap
from .conftest import LayOut

SHORT = {"finetune": {"labelled": [1], "modes": ["federated"], "steps": 1, "rounds": 1, "batch": 2}, "baseline": False}


@pytest.mark.slow
def test_every_byte_of_a_federation_is_explained(lay_out_world: LayOut, tmp_path: Path) -> None:
    run, study = lay_out_world("wired", **SHORT)
    frames: list[bytes] = []
    try:
        with on_loopback(frames):
            federate(run, study, "zmq", lambda _, __: None)
    except PermissionError:
        pytest.skip("a raw socket on the loopback needs CAP_NET_RAW")
    port = int((run / COORDINATOR / "endpoint").read_text().rpartition(":")[2])
    # Others talk on the loopback, too, and from before this capture began.
    ours = [one for one in frames if port in (int.from_bytes(one[34:36], "big"), int.from_bytes(one[36:38], "big"))]
    capture = tmp_path / "run.pcap"
    capture.write_bytes(pcap(ours, link=1))
    command = ["wire", str(capture), str(run)]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    assert "every byte is explained" in told.output
    assert not [one for one in verify(run) if one.status is Status.FAILED]
    store = Store(run / "sites" / study.sites[0].name)
    store._db.execute("DELETE FROM sent WHERE seq = (SELECT max(seq) FROM sent WHERE kind = 'release')")
    store.close()
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 1
    assert "NOT EXPLAINED" in told.output
