"""Kernels on 8 devices, each of which has a part of the batch; run by test_sharded.py in a process of its own."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from cores.numeric import assert_close
from cuda import abstract_gpu
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from memrl import kernels

T, B, N, K = 3, 16, 2, 2  # B: two rows on each device
MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(0.5 * RNG.normal(size=shape), jnp.float32)  # the delta rule grows with its keys


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
    "dplr_delta_rule": (
        functools.partial(kernels.dplr_delta_rule, least_log_decay=-0.6),
        {name: (normal(T, B, 1, K), "TBHK") for name in ("q", "k", "v", "a", "b")}
        | {"log_decay": (-0.6 * jax.nn.sigmoid(normal(T, B, 1, K)), "TBHK"), "s0": (normal(B, 1, K, K), "BHKK")},
    ),
    "signed_linear_attention": (
        kernels.signed_linear_attention,
        {name: (normal(T, B, 1, K), "TBHK") for name in ("q", "k", "v")}
        | {"decay": (jnp.tanh(normal(T, B, 1)), "TBH"), "s0": (normal(B, 1, K, K), "BHKK")},
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

WITHOUT_PALLAS = {"dplr_delta_rule", "signed_linear_attention"}


def problem(name):
    """The function of arguments and resets, the arguments, the resets, and how all are split."""
    function, arguments = CASES[name]
    reset = jnp.asarray(np.random.default_rng(1).random((T, B)) < 0.3)
    specs = {name: P(*("data" if axis == "B" else None for axis in axes)) for name, (_, axes) in arguments.items()}
    return function, {name: x for name, (x, _) in arguments.items()}, reset, specs


def loss_and_gradients(function, backend, arguments, reset):
    def loss(arguments):
        outputs = function(**arguments, reset=reset, backend=backend)
        return sum(jnp.sum(1 + jnp.sin(x)) for x in jax.tree.leaves(outputs)), outputs

    return jax.value_and_grad(loss, has_aux=True)(arguments)


def placed(arguments, reset, specs):
    put = {name: jax.device_put(x, NamedSharding(MESH, specs[name])) for name, x in arguments.items()}
    return put, jax.device_put(reset, NamedSharding(MESH, P(None, "data")))


def check(name, program, arguments, expected):
    """The same numbers, and nothing moves between devices but sums over the batch."""
    compiled = program.lower(*arguments).compile()
    actual = compiled(*arguments)
    assert_close(actual, expected, 5e-6, name)
    moved = re.findall(r"(?:all-gather|all-to-all|collective-permute)(?:-start)?\(", compiled.as_text())
    assert not moved, f"{name}: {moved}"


def check_all(name, backend):
    """Under `jit` with split arguments, under `vmap` and `scan` inside of it, and inside of `shard_map`."""
    function, arguments, reset, specs = problem(name)
    reference = jax.jit(functools.partial(loss_and_gradients, function, "reference"))
    expected = reference(arguments, reset)
    run = functools.partial(loss_and_gradients, function, backend)
    split = placed(arguments, reset, specs)
    check(f"{name}, jit", jax.jit(run), split, expected)

    def inside(arguments, reset):
        (loss, outputs), gradients = run(arguments, reset)
        replicated = {name: "data" not in spec for name, spec in specs.items()}
        gradients = {name: jax.lax.psum(g, "data") if replicated[name] else g for name, g in gradients.items()}
        return (jax.lax.psum(loss, "data"), outputs), gradients

    outputs = jax.tree.map(lambda x: P("data") if x.shape[0] == B else P(None, "data"), expected[0][1])
    per_device = jax.shard_map(
        inside, mesh=MESH, in_specs=(specs, P(None, "data")), out_specs=((P(), outputs), specs), check_vma=False
    )
    check(f"{name}, shard_map", jax.jit(per_device), split, expected)


def check_vmap_in_scan(name, backend):
    """Seeds by `vmap`, updates by `scan`, as experiments are run; seeds split too on a mesh of both axes."""
    function, arguments, reset, specs = problem(name)
    seeds = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), arguments)

    def updates(backend, seeds, reset):
        one = functools.partial(loss_and_gradients, function, backend)

        def update(seeds, _):
            (losses, _), gradients = jax.vmap(one, in_axes=(0, None))(seeds, reset)
            return jax.tree.map(lambda x, g: x - 1e-3 * g, seeds, gradients), losses

        return jax.lax.scan(update, seeds, None, length=2)

    expected = jax.jit(functools.partial(updates, "reference"))(seeds, reset)
    for mesh, seed in (
        (MESH, None),
        (jax.make_mesh((2, 4), ("seed", "data"), axis_types=(AxisType.Auto,) * 2), "seed"),
    ):
        split = {name: jax.device_put(x, NamedSharding(mesh, P(seed, *specs[name]))) for name, x in seeds.items()}
        reset_split = jax.device_put(reset, NamedSharding(mesh, P(None, "data")))
        check(f"{name}, vmap", jax.jit(functools.partial(updates, backend)), (split, reset_split), expected)


def check_gpu(name):
    """The kernel that a program of several GPUs gets is one over the rows of one of them."""
    function, arguments, reset, specs = problem(name)
    shards = (
        jax.tree.map(lambda x, spec: NamedSharding(MESH, spec), arguments, specs),
        NamedSharding(MESH, P(None, "data")),
    )
    with abstract_gpu():
        program = jax.jit(functools.partial(loss_and_gradients, function, "pallas"), in_shardings=shards)
        text = program.trace(arguments, reset).lower(lowering_platforms=("cuda",)).as_text()
    assert "CustomSPMDPartitioning" in text, name


if __name__ == "__main__":
    for name in CASES:
        check_all(name, "xla" if name in WITHOUT_PALLAS else "interpret")
        if name not in WITHOUT_PALLAS:
            check_gpu(name)
        print(name, flush=True)
    check_vmap_in_scan("linear_scan, constant", "interpret")
