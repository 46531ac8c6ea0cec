"""Writes plstm_layer.npz: random inputs and parameters, and what the layer of pLSTM's authors makes of them.

    git clone https://github.com/ml-jku/plstm && git -C plstm checkout a404ff3 && pip install compoconf einops
    PYTHONPATH=plstm/src python make_plstm_layer.py

Its gates depend on the input here, as in the paper; its transitions are numbers, and q, k and v have dense weights.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

B, T, D, H = 2, 16, 8, 2  # T a power of two, as it asks for


def layer() -> Any:
    from plstm.config import plstm_1d_layer, source_mark_layer  # pyright: ignore[reportMissingImports]
    from plstm.nnx.plstm_1d_layer import pLSTM1DLayer  # pyright: ignore[reportMissingImports]

    float32 = {"dtype": "float32", "param_dtype": "float32"}
    gate = {"input_dim": D, "num_heads": H, "weight": True, **float32}
    config = plstm_1d_layer.pLSTM1DLayerConfig(
        input_dim=D,
        num_heads=H,
        sub_heads=1,
        JT=1,
        JV=1,
        JO=1,
        source=source_mark_layer.SourceLayerConfig(**gate),
        mark=source_mark_layer.MarkLayerConfig(**gate),
        direct=source_mark_layer.DirectLayerConfig(**gate),
        **float32,
    )
    return pLSTM1DLayer(config, rngs=nnx.Rngs(0))


def main() -> None:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    kernel, bias = normal(D, 2 * D + 4 * H) / np.sqrt(D), normal(2 * D + 4 * H)
    parameters = {
        "convolution.kernel": normal(4, D),
        "convolution.bias": normal(D),
        "project.kernel": kernel,
        "project.bias": bias,
        "value.kernel": normal(D, D) / np.sqrt(D),
        "value.bias": normal(D),
        "output.kernel": normal(D, D) / np.sqrt(D),
        "skip": normal(D),
    }
    xs = normal(T, B, D)

    theirs = layer()
    convolution = theirs.conv._conv
    convolution.kernel[...] = parameters["convolution.kernel"][::-1, None]
    convolution.bias[...] = parameters["convolution.bias"]
    q, k, source, mark, direct, transition = range(6)
    ends = np.cumsum([D, D, H, H, H, H])[:-1]
    weights, biases = np.split(kernel, ends, 1), np.split(bias, ends)
    value = parameters["value.kernel"], parameters["value.bias"]
    for part, w, b in (
        (theirs.query, weights[q], biases[q]),
        (theirs.key, weights[k], biases[k]),
        (theirs.value_, *value),
        (theirs.source, weights[source], biases[source]),
        (theirs.mark, weights[mark], biases[mark]),
        (theirs.direct, weights[direct], biases[direct]),
    ):
        part.weight[...] = w.T.reshape(part.weight.shape)
        part.bias[...] = b.reshape(part.bias.shape)
    shape = theirs.transition.eigenvalues_weight.shape
    theirs.transition.eigenvalues_weight[...] = weights[transition].T.reshape(shape)
    theirs.transition.eigenvalues_bias[...] = biases[transition].reshape(H, 1)
    theirs.outprojection.kernel[...] = parameters["output.kernel"]
    theirs.passthrough.scale[...] = parameters["skip"]
    nnx.bridge.lazy_init(theirs.mhnorm.norm, np.zeros((B, H, T, D // H), np.float32))
    ys = np.swapaxes(np.asarray(theirs(np.swapaxes(xs, 0, 1))), 0, 1)
    np.savez(Path(__file__).with_name("plstm_layer.npz"), xs=xs, ys=ys, **parameters)


if __name__ == "__main__":
    main()
