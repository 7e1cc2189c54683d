"""A segmenter's network as ONNX, checked against the network itself: the only module that knows onnx and onnxruntime.

The file holds the network alone, slices in and logits out: what comes before and after stands in its metadata.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch

from fedsecure.clinic.card import OUTSIDE_THE_GATE
from fedsecure.clinic.released import ReleasedModel
from fedsecure.errors import SettingsError

OPSET: Final = 18
CLOSE: Final = 1e-4  # largest difference of a probability
_SLICES: Final = (1, 5)  # two lengths of a batch: neither may be baked into the graph


def require_onnx() -> None:
    """Raises SettingsError, with what to install, if onnx or onnxruntime is missing."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
        raise SettingsError("ONNX needs onnx and onnxruntime, which are not installed: pip install 'fedsecure[onnx]'")


def onnx_bytes(model: ReleasedModel) -> bytes:
    """The file, with input "image" [slices, 1, S, S] and output "logits" [slices, C, S, S], float32.

    Raises SettingsError for an encoder, without onnx, or where ONNX Runtime's probabilities are not the network's.
    """
    require_onnx()
    import onnx

    network = model.segmenter()
    size = model.manifest.data.size
    slices = {0: "slices"}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="fedsecure-onnx-") as folder:
        warnings.simplefilter("ignore")  # torch announces its other exporter, which needs one more library
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            network, (torch.zeros(2, 1, size, size),), file, dynamo=False, opset_version=OPSET,
            input_names=["image"], output_names=["logits"], dynamic_axes={"image": slices, "logits": slices},
        )  # fmt: skip
        graph = onnx.load_model_from_string(file.read_bytes())
    onnx.helper.set_model_props(
        graph,
        {
            "fedsecure_model": model.id,
            "structures": ", ".join(model.manifest.structures),
            "data_settings": msgspec.json.encode(model.manifest.data.model_dump(mode="json")).decode(),
            "notice": OUTSIDE_THE_GATE,
        },
    )
    raw: bytes = graph.SerializeToString()
    if (off := difference(model, raw)) > CLOSE:
        raise SettingsError(f"the ONNX file does not answer as the network does: a probability is off by {off:.1e}")
    return raw


def difference(model: ReleasedModel, raw: bytes) -> float:
    """The largest difference between a probability of the network and of the file, over made-up slices."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    network, size = model.segmenter(), model.manifest.data.size
    worst = 0.0
    for count in _SLICES:
        image = np.random.default_rng(count).standard_normal((count, 1, size, size), dtype=np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(image)).softmax(1)
        (logits,) = session.run(None, {"image": image})
        worst = max(worst, float((torch.from_numpy(logits).softmax(1) - expected).abs().max()))
    return worst
