"""First models on CPUs with and without fused multiply-add: torch is told to use another CPU's code in a process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from fedsecure.learning.portable import PortableDraws

DIGESTS = """
import hashlib, json, typing
from fedsecure.config import Framework, parse_study
from fedsecure.learning.dispatch import initial_model
from fedsecure.learning.parts import start_of
from fedsecure.packing import pack_model
from fedsecure.plan import schedule

found = {}
for framework in sorted(typing.get_args(Framework)):
    study = parse_study({"framework": framework, "finetune": {"labelled": [1]},
                         "model": {"filters": 4, "hidden": 16, "features": 8}})
    encoder = None
    for number, stage in enumerate(schedule(study)):
        model = initial_model(study, number, encoder)
        found[f"{framework} {number}"] = hashlib.sha256(pack_model(model)).hexdigest()
        encoder = encoder or start_of(model, False)
print(json.dumps(found))
"""


def digests(capability: str) -> dict[str, str]:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    said = subprocess.run([sys.executable, "-c", DIGESTS], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(said.stdout)
    return found


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="torch has code for several x86-64 CPUs")
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="this CPU has one kind of code only")
def test_a_first_model_is_the_same_with_and_without_fused_multiply_add() -> None:
    plain, fused = digests("default"), digests("avx2")
    assert len(plain) > 40
    assert plain == fused


def test_draws_are_of_the_interval_and_of_the_generator() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layer = torch.nn.Linear(20, 50)
        torch.manual_seed(5)
        with PortableDraws():
            again = torch.nn.Linear(20, 50)
        torch.manual_seed(5)
        raw = torch.empty(50, 20).uniform_(0.0, 1.0)
    torch.testing.assert_close(again.weight, layer.weight, atol=1e-7, rtol=0)
    bound = 1 / 20**0.5
    assert (again.weight == raw * torch.tensor(2 * bound) - torch.tensor(bound)).all()
