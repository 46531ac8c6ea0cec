"""Kernels on 8 devices, each of which has a part of the batch; run by test_sharded.py in a process of its own."""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from memrl import kernels

T, B, N, K = 3, 16, 2, 2  # B: two rows on each device
MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def gates(x):
    return -jnp.exp(x)


# Of each kernel the function of arguments and resets, and the arguments with their axes.
CASES = {
    "linear_scan": (
        lambda a, b, h0, *, reset, backend: kernels.linear_scan(a, b, h0, reset, backend=backend),
        {"a": (normal(T, B, N), "TBN"), "b": (normal(T, B, N), "TBN"), "h0": (normal(B, N), "BN")},
    ),
    "linear_scan, constant": (
        lambda a, b, h0, *, reset, backend: kernels.linear_scan(a, b, h0, reset, backend=backend),
        {"a": (normal(N), "N"), "b": (normal(T, B, N), "TBN"), "h0": (normal(B, N), "BN")},
    ),
    "selective_scan": (
        kernels.selective_scan,
        {
            "x": (normal(T, B, N), "TBN"),
            "dt": (jnp.abs(normal(T, B, N)), "TBN"),
            "A": (gates(normal(N, K)), "NK"),
            "B": (normal(T, B, K), "TBK"),
            "C": (normal(T, B, K), "TBK"),
            "D": (normal(N), "N"),
            "h0": (normal(B, N, K), "BNK"),
        },
    ),
    "gated_linear_attention": (
        kernels.gated_linear_attention,
        {name: (normal(T, B, 1, K), "TBHK") for name in ("q", "k", "v")}
        | {"log_decay": (gates(normal(T, B, 1, K)), "TBHK"), "s0": (normal(B, 1, K, K), "BHKK")},
    ),
    "gated_delta_rule": (
        kernels.gated_delta_rule,
        {name: (normal(T, B, 1, K), "TBHK") for name in ("q", "k", "v")}
        | {"beta": (normal(T, B, 1), "TBH"), "s0": (normal(B, 1, K, K), "BHKK")},
    ),
    "gru_scan": (
        kernels.gru_scan,
        {"gates": (normal(T, B, 3 * N), "TBN"), "kernel": (normal(N, 3 * N), "NM"), "h0": (normal(B, N), "BN")},
    ),
    "lstm_scan": (
        kernels.lstm_scan,
        {"gates": (normal(T, B, 4 * N), "TBN"), "kernel": (normal(N, 4 * N), "NM")}
        | {"h0": (normal(B, N), "BN"), "c0": (normal(B, N), "BN")},
    ),
}


def problem(name):
    """The function of arguments and resets, the arguments, the resets, and how all are split."""
    function, arguments = CASES[name]
    reset = jnp.asarray(np.random.default_rng(1).random((T, B)) < 0.3)
    specs = {name: P(*("data" if axis == "B" else None for axis in axes)) for name, (_, axes) in arguments.items()}
    return function, {name: x for name, (x, _) in arguments.items()}, reset, specs


def loss_and_gradients(function, backend, arguments, reset):
    def loss(arguments):
        outputs = function(**arguments, reset=reset, backend=backend)
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(outputs)), outputs

    return jax.value_and_grad(loss, has_aux=True)(arguments)


def placed(arguments, reset, specs):
    put = {name: jax.device_put(x, NamedSharding(MESH, specs[name])) for name, x in arguments.items()}
    return put, jax.device_put(reset, NamedSharding(MESH, P(None, "data")))


def check(name, compiled, arguments, expected):
    """The same numbers, and nothing is brought together but sums over the batch."""
    actual = compiled(*arguments)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), actual, expected)
    moved = re.findall(r"(?:all-gather|all-to-all|collective-permute)(?:-start)?\(", compiled.as_text())
    assert not moved, f"{name}: {moved}"


def run(name, backend):
    function, arguments, reset, specs = problem(name)
    run = functools.partial(loss_and_gradients, function, backend)
    expected = jax.jit(functools.partial(loss_and_gradients, function, "reference"))(arguments, reset)
    split = placed(arguments, reset, specs)
    check(name, jax.jit(run).lower(*split).compile(), split, expected)


if __name__ == "__main__":
    for case in sys.argv[2:] or CASES:
        try: run(case, sys.argv[1]); print("ok", case)
        except Exception as e: print("FAIL", case, type(e), str(e)[:1500])
