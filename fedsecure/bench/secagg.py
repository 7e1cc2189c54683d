"""What secure aggregation costs beside the least it could cost, measured in the same process.

The floor of a site is the keystream of all its masks, one pass of adds and one pass of quantising; of the coordinator
the keystream of all masks it removes and one pass of adds. Everything else (packing, adding each mask, shares,
signatures) is ours. All sites are real; keys are agreed, dealt and opened as in a study. Vectors are normal with a
deviation of 0.02.
"""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedsecure.privacy.clip import clip_factor
from fedsecure.privacy.quantize import Grid, Quantizer, dequantize
from fedsecure.privacy.rotate import rotate_in_place
from fedsecure.types import FloatArray
from keys.identity import Identity
from keys.roster import Roster
from protocols.codec import encode
from protocols.messages import Message
from protocols.ring import Ring, Words, signed
from protocols.secagg import client, server, setup, unmasking
from protocols.secagg.graph import COMPLETE, commitment, degree
from protocols.secagg.ledger import Ledger
from protocols.secagg.manifest import Expected, Floors, assumed_corrupted, least_threshold
from protocols.secagg.messages import CohortMember, FlowPart, Manifest, MaskedInput
from protocols.secagg.states import Burned, Keyed, Masked
from protocols.xof import CHUNK, Keystream, keystream_buffer

_REPEATS = 5


@dataclass
class _Site:
    name: str
    identity: Identity
    state: Any = None
    ledger: Ledger = field(default_factory=Ledger)
    setup_s: float = 0.0
    sent: int = 0

    def say(self, message: Message) -> None:
        self.sent += len(encode(message))


def bench_secagg(params: int, sites: int, drop: int, ring: int = 20, seed: int = 0) -> dict[str, float | bool | str]:
    """One sum of `sites` vectors of `params` coordinates, of which the last `drop` sites keep theirs back.

    Seconds are the least of five for what is compared with a floor (unmasking above 100 sites: of one).
    bytes_per_param: of a whole masked-input message. peak_bytes: of a site's upload stage, its float32 vector included.
    rotate_s: of turning the vector in place, which a study does before that stage (`security.rotation`).
    setup_s: of one site's AdvertiseKeys and ShareKeys; setup_bytes: what it sends for them. exact: the sum is that of
    the survivors' integers.
    Raises ValueError if too few sites are left.
    """
    members = [_Site(f"site-{rank:04}", Identity.generate()) for rank in range(sites)]
    hub = Identity.generate()
    roster = Roster("hub", {"hub": hub.public, **{site.name: site.identity.public for site in members}})
    opening = os.urandom(32)
    manifest = _manifest(params, members, ring, commitment(opening))
    if sites - drop < manifest.threshold:
        raise ValueError(f"a sum of {sites} sites needs {manifest.threshold} to the end: drop fewer")
    masking, keyed = _set_up(manifest, opening, roster, hub, members)
    grid = Grid.fit(ring, [1] * sites, 1.0, params)
    survivors = members[: sites - drop]

    measured, exact = _upload(keyed[survivors[0].name], grid, params, seed)
    vectors, total = {}, np.zeros(params, np.int32)
    for place, site in enumerate(survivors):
        vector = _vector(params, seed + place)
        key, factor = os.urandom(32), clip_factor(vector, 1.0)
        total += _integers(grid, vector, key, factor)
        fill = Quantizer(grid, vector, key, factor).fill
        site.state, message = _masked(keyed[site.name], fill)
        masking = server.take_vector(masking, site.name, message)
        vectors[site.name] = message.vector
        measured["bytes_per_param"] = len(encode(message)) / params
    unmasking_, signature_bytes = _agree(masking, survivors)
    measured |= _unmask(unmasking_, vectors, total)
    first = members[0]
    return {
        **measured,
        "exact": exact and bool(measured["exact"]),
        "setup_s": first.setup_s,
        "setup_bytes": first.sent,
        "masks": len(keyed[first.name].plus) + len(keyed[first.name].minus),
        "signature_bytes_per_site": signature_bytes,
        "mean_error": grid.mean_error([1] * len(survivors)),
        "guarantee": degree(sites, manifest.corrupted, manifest.threshold).guarantee(sites, manifest.corrupted),
    }


def _manifest(params: int, members: list[_Site], ring: int, graph: bytes) -> Manifest:
    sites = len(members)
    corrupted = assumed_corrupted(sites)
    threshold = least_threshold(sites, corrupted)
    wanted = degree(sites, corrupted, threshold)
    real = struct.pack("<d", 1.0)
    return Manifest(
        study=bytes(32), stage=0, round=0, attempt=0, model=bytes(32), inputs=(),
        flows=(FlowPart("weights", params),), ring=ring,  # type: ignore[arg-type]  # checked by the codec
        cohort=tuple(CohortMember(site.name, 1) for site in members), threshold=threshold, corrupted=corrupted,
        neighbours=wanted.neighbours, holders=wanted.holders, clip=real, step=real, noise=real, budget=real,
        schema=bytes(32), terms=bytes(32), code=bytes(32), graph=graph,
    )  # fmt: skip


def _set_up(
    manifest: Manifest, opening: bytes, roster: Roster, hub: Identity, members: list[_Site]
) -> tuple[server.Masking, dict[str, Keyed]]:
    """All steps before a vector is masked."""
    state, opened = server.open_sum(manifest, opening, roster, hub)
    own = {name: getattr(manifest, name) for name in Expected.__slots__ if name not in ("initial", "weights")}
    expected, floors = (
        Expected(**own, initial=manifest.model, weights={site.name: 1 for site in members}),
        Floors(sites=1, known=frozenset(roster.sites)),
    )
    for site in members:
        began = time.perf_counter()
        place: dict[str, Any] = {"expected": expected, "floors": floors, "roster": roster, "me": site.name}
        begun, site.ledger = client.open_sum(opened, site.ledger, **place)
        site.state, keys = client.advertise_keys(begun, site.identity)
        site.setup_s += time.perf_counter() - began
        site.say(keys)
        state = server.take_keys(state, site.name, keys)
    sharing, keysets = server.close_keys(state)
    for site in members:
        began = time.perf_counter()
        site.state, shares = setup.share_keys(site.state, keysets[site.name], site.identity)
        site.setup_s += time.perf_counter() - began
        site.say(shares)
        sharing = server.take_shares(sharing, site.name, shares)
    masking, relays = server.close_shares(sharing)
    keyed = {}
    for site in members:
        began = time.perf_counter()
        keyed[site.name] = setup.accept_shares(site.state, relays[site.name])
        site.setup_s += time.perf_counter() - began
        _, site.ledger = client.burn(keyed[site.name], site.ledger)
    return masking, keyed


def _upload(keyed: Keyed, grid: Grid, params: int, seed: int) -> tuple[dict[str, Any], bool]:
    """A site's upload stage and its floor, in turns; and whether the vector comes out under the masks."""
    vector = _vector(params, seed)
    factor, ring = clip_factor(vector, 1.0), keyed.opened.cohort.ring

    def stage() -> bytes:
        fill = Quantizer(grid, vector, os.urandom(32), factor).fill
        return _masked(keyed, fill)[1].vector

    streams = (*keyed.plus, *keyed.minus)

    def floor() -> None:
        _keystream(ring, streams, params)
        _quantise(grid, vector, ring, factor)

    ours, least = _in_turns(stage, floor)
    adds = _one_pass_of_adds(ring, params)
    rotate_s = _rotation(vector)
    tracemalloc.start()
    packed = stage()
    peak = tracemalloc.get_traced_memory()[1] + vector.nbytes
    tracemalloc.stop()
    bare = unmasking.sum_vectors(keyed.opened.cohort, [packed])
    unmasking.remove_masks(keyed.opened.cohort, bare, unmasking.OpenedMasks(keyed.plus, keyed.minus))
    off = np.abs(dequantize(grid, signed(ring, bare)) - vector * np.float64(factor)).max()
    close = bool(off <= (1 + 2.0**-20) * grid.step)
    return {"site_upload_s": ours, "site_floor_s": least + adds, "peak_bytes": peak, "rotate_s": rotate_s}, close


def _rotation(vector: FloatArray) -> float:
    turned = vector.copy()
    return min(_seconds(lambda: rotate_in_place(turned, bytes(32))) for _ in range(_REPEATS))


def _masked(keyed: Keyed, fill: client.Fill) -> tuple[Masked, MaskedInput]:
    """A site's step with a copy of its keys: it is measured again and again, and what is masked here is nobody's."""
    return client.mask_input(Burned(replace(keyed)), fill)


def _agree(masking: server.Masking, survivors: list[_Site]) -> tuple[server.Unmasking, float]:
    """ConsistencyCheck and Unmask; and the bytes of signatures that a site is sent for each survivor."""
    checking, told = server.close_vectors(masking)
    for site in survivors:
        signing, site.ledger = client.sign(client.hear_survivors(site.state, told), site.ledger)
        site.state, check = client.sign_survivors(signing, site.identity)
        checking = server.take_check(checking, site.name, check)
    state, request = server.close_checks(checking)
    agreed = client.verify_agreement(survivors[0].state, request)
    for site in survivors:
        # All are sent the same signatures; with a thousand sites it is enough that one verifies them here.
        told = site.state.told
        answering, site.ledger = client.answer(replace(agreed, told=told), site.ledger)
        site.state, shares = client.unmask(answering)
        state = server.take_unmask(state, site.name, shares)
    return state, len(encode(request)) / len(survivors)


def _unmask(state: server.Unmasking, vectors: Mapping[str, bytes], wanted: np.ndarray[Any, Any]) -> dict[str, Any]:
    cohort = state.masking.sum.cohort
    began = time.perf_counter()
    total = unmasking.sum_vectors(cohort, vectors.values())
    sum_s = time.perf_counter() - began
    result = total.copy()

    def stage() -> None:
        result[:] = total
        unmasking.remove_masks(cohort, result, unmasking.open_masks(state))

    masks = unmasking.open_masks(state)
    streams = (*masks.added, *masks.subtracted)

    def floor() -> None:
        _keystream(cohort.ring, streams, cohort.length)

    ours, least = _in_turns(stage, floor, _REPEATS if len(cohort) <= COMPLETE else 1)
    adds = _one_pass_of_adds(cohort.ring, cohort.length)
    exact = bool((signed(cohort.ring, result) == wanted).all())
    return {
        "unmask_s": ours, "unmask_floor_s": least + adds, "unmask_streams": len(streams), "sum_s": sum_s,
        "exact": exact,
    }  # fmt: skip


def _vector(params: int, seed: int) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(params, np.float32) * np.float32(0.02)


def _integers(grid: Grid, vector: FloatArray, key: bytes, factor: float) -> np.ndarray[Any, Any]:
    words = np.zeros(len(vector), np.uint32)
    Quantizer(grid, vector, key, factor).fill(0, words)
    return words.view(np.int32)


def _keystream(ring: Ring, keys: tuple[bytes, ...], length: int) -> None:
    buffer, size = keystream_buffer(CHUNK), length * ring.dtype.itemsize
    for key in keys:
        stream = Keystream(key)
        for start in range(0, size, CHUNK):
            stream.next_into(buffer, min(CHUNK, size - start))


def _quantise(grid: Grid, vector: FloatArray, ring: Ring, factor: float) -> None:
    quantizer, words = Quantizer(grid, vector, bytes(32), factor), ring.words(min(ring.chunk, len(vector)))
    for start, stop in ring.chunks(len(vector)):
        quantizer.fill(start, words[: stop - start])


def _one_pass_of_adds(ring: Ring, length: int) -> float:
    total, chunk = ring.words(length), ring.words(min(ring.chunk, length))

    def one_pass() -> None:
        for start, stop in ring.chunks(length):
            part: Words = total[start:stop]
            part += chunk[: stop - start]

    return min(_seconds(one_pass) for _ in range(_REPEATS))


def _in_turns(ours: Callable[[], Any], floor: Callable[[], Any], times: int = _REPEATS) -> tuple[float, float]:
    """Least seconds of each; in turns, so that whatever else the machine does falls on both."""
    pairs = [(_seconds(ours), _seconds(floor)) for _ in range(times)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
