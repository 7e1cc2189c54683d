from __future__ import annotations

import subprocess
import sys

import pytest

from fedsecure.bench.channel import bench_channel
from fedsecure.bench.far_end import World, memory


def test_memory_sees_what_is_taken_and_what_was() -> None:
    """Of a process of its own: in this one other tests' memory comes and goes."""
    sleeper = "block = bytearray(b'x') * (64 << 20); del block; print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", sleeper], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"\n"
        now, peak = memory(process.pid)
        process.communicate(b"\n")
    assert 60 << 20 < peak - now < 70 << 20
    assert memory(reset=True)[0] > 0


def test_a_world_is_made_for_each_measurement_and_not_shown() -> None:
    world = World.make(1)
    assert world.party("hub").roster.sites == ("site-0",)
    assert world.private["hub"][0] not in repr(world)


@pytest.mark.slow
def test_the_channel_keeps_its_bounds() -> None:
    """Ratios and memory, which a busy machine does not change much; docs/results/channel.md has the rates."""
    measured = bench_channel(3)
    assert measured["sealed_curve_gbps"] > 0.75 * measured["curve_gbps"]
    assert measured["seal_digest_gbps"] > 0.6 * measured["sha256_gbps"]
    assert measured["peak_bytes"] < 16 << 20
    assert measured["crowd_bytes"] < 500e6
