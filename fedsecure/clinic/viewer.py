"""A page that shows a volume with what the model drew: one self-contained HTML file, no network, every action by key.

It holds the patient's images, so it belongs beside them. Axes are brought to the nearest RAS order for the reader; no
voxel is resampled. NiiVue's bundle has 2.3 MB in each page, so this is a viewer of our own, of a few kilobytes.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedsecure.data.layout import Raw
from fedsecure.data.nifti import axis_codes
from fedsecure.files import write_atomic
from fedsecure.types import LabelArray

MOST_VOXELS: Final = 1 << 25  # of all frames; a longer scan is thinned out in its page
_COLOURS: Final = ("#d55e00", "#009e73", "#0072b2", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito


def write_page(path: Path, raws: Sequence[Raw], labels: Sequence[LabelArray], structures: Sequence[str], name: str,
               model_id: str) -> None:  # fmt: skip
    """One page for the frames of one file or series, [X, Y, Z] each and all of one shape."""
    script = resources.files("fedsecure.clinic").joinpath("viewer.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    step = _step(raws)
    environment = Environment(
        loader=PackageLoader("fedsecure.clinic", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("viewer.html").render(
        script=Markup(script),  # noqa: S704  our own file, whose digest the page's policy names
        digest=digest,
        data=Markup(_data(raws, labels, structures, step)),  # noqa: S704  JSON without "<"
        structures=[(value, text, _colour(value)) for value, text in enumerate(structures, start=1)],
        name=name,
        model=model_id,
        step=step,
        frames=len(raws),
    )
    write_atomic(path, page.encode())


def _data(raws: Sequence[Raw], labels: Sequence[LabelArray], structures: Sequence[str], step: int) -> str:
    grey = _grey([_upright(raw.voxels, raw.affine)[::step, ::step] for raw in raws])
    drawn = np.stack([_upright(label, raw.affine)[::step, ::step] for label, raw in zip(labels, raws, strict=True)])
    order, _ = _turn(raws[0].affine)
    spacing = np.array(raws[0].spacing_mm)[order] * (step, step, 1)
    told: dict[str, Any] = {
        "shape": list(drawn.shape[1:]),
        "frames": len(raws),
        "spacing": [float(length) for length in spacing],
        "structures": list(structures),
        "colours": [_colour(value) for value in range(1, len(structures) + 1)],
        "image": _packed(grey),
        "labels": _packed(drawn),
    }
    return msgspec.json.encode(told).decode().replace("<", "\\u003c")


def _turn(affine: npt.NDArray[np.float64]) -> tuple[list[int], tuple[slice, ...]]:
    """The stored axis for x, y and z each, and how each is read so that it grows towards R, A and S."""
    codes = axis_codes(affine)
    order = [next(i for i, code in enumerate(codes) if code in pair) for pair in ("RL", "AP", "SI")]
    return order, tuple(slice(None, None, 1 if codes[axis] in "RAS" else -1) for axis in order)


def _upright(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    order, ways = _turn(affine)
    return array.transpose(order)[ways]


def _grey(frames: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.uint8]:
    """One window for all frames: their 1st to 99th percentile."""
    stacked = np.stack(frames)
    low, high = np.percentile(stacked, (1, 99))
    unit = np.clip((stacked - low) / max(high - low, 1e-6), 0, 1)
    grey: npt.NDArray[np.uint8] = (255 * unit).round().astype(np.uint8)
    return grey


def _packed(array: npt.NDArray[np.uint8]) -> str:
    """Bytes [frame][x][y][z], z fastest, deflated, base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 6)).decode()


def _step(raws: Sequence[Raw]) -> int:
    """Every how many-th voxel along x and y is shown."""
    voxels = len(raws) * raws[0].voxels.size
    return max(1, int(np.ceil(np.sqrt(voxels / MOST_VOXELS))))


def _colour(value: int) -> str:
    return _COLOURS[(value - 1) % len(_COLOURS)]
