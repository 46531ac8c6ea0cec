"""The whole network: one function step by step and over a sequence, with one memory or two."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, assert_finite, normal
from flax import nnx
from jaxprs import equations

from memrl import ActorCritic, MemrlError, NetworkConfig, StackConfig, core_config
from memrl.spaces import Box, Dict, Discrete, Space

T, B = 6, 2
SMALL: dict[str, Any] = {"features": 8, "encoder_sizes": (6,), "head_sizes": (5,)}
VECTOR = Box(-1, 1, (3,))
SPACE: Any = Dict(
    {
        "observation": VECTOR,
        "previous_action": Box(0, 1, (4,)),
        "previous_reward": Box(-np.inf, np.inf, (1,)),
        "start": Box(0, 1, (1,)),
    }
)
RESETS = np.zeros((T, B), bool)
RESETS[0, 0] = RESETS[2:4, 1] = True


def make(critic: Any = "shared", space: Space = VECTOR, cores=("gru",)) -> Any:
    config = NetworkConfig(critic=critic, stack=StackConfig(layers=len(cores)), **SMALL)
    return ActorCritic(space, Discrete(4), [core_config(name) for name in cores], config, rngs=nnx.Rngs(0))


def inputs(seed=0, leading=(T, B)):
    rng = np.random.default_rng(seed)
    return {name: normal(rng, (*leading, *box.shape)) for name, box in SPACE.spaces.items()}


def read(output):
    return output.policy.logits, output.value


@nnx.jit
def unroll(network, state, xs, resets):
    state, output = network.unroll(state, xs, resets)
    return state, read(output)


@nnx.jit
def step(network, state, x, reset):
    state, output = network.step(state, x, reset)
    return state, read(output)


def run(network, xs, resets):
    return unroll(network, network.initial_state(B), xs, resets)[1]


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_step_equals_unroll(critic):
    network, xs = make(critic, cores=("gru", "s5")), inputs()["observation"]
    last, (logits, value) = unroll(network, network.initial_state(B), xs, RESETS)
    assert (logits.shape, value.shape) == ((T, B, 4), (T, B))
    state = network.initial_state(B)
    for t in range(T):
        state, outputs = step(network, state, xs[t], RESETS[t])
        assert_close(outputs, (logits[t], value[t]), 2e-5)
    assert_close(state, last, 2e-5)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_resets_reach_every_memory(critic):
    network, xs = make(critic), inputs()["observation"]
    resets = np.zeros((T, B), bool)
    resets[3] = True
    poisoned = np.concatenate([np.full_like(xs[:3], np.nan), xs[3:]])
    clean, healed = (jax.tree.map(lambda x: x[3:], run(network, x, resets)) for x in (xs, poisoned))
    assert_close(healed, clean, 1e-6)


def gradients_of(network, pick):
    xs = inputs()["observation"]

    def loss(network):
        _, output = network.unroll(network.initial_state(B), xs, RESETS)
        return jnp.sum(pick(output))

    gradients = nnx.jit(nnx.grad(loss))(network)
    assert_finite(gradients)
    touched = {}
    for path, leaf in jax.tree.leaves_with_path(gradients):
        part = path[0].key
        touched[part] = touched.get(part, False) or bool((np.asarray(leaf) != 0).any())
    return {part for part, is_touched in touched.items() if is_touched}


def test_a_shared_memory_learns_from_both():
    assert gradients_of(make(), lambda output: output.value) == {"actor", "value"}
    assert gradients_of(make(), lambda output: output.policy.logits[..., 1]) == {"actor", "policy"}


def test_separate_memories_learn_apart():
    assert gradients_of(make("separate"), lambda output: output.value) == {"critic", "value"}
    assert gradients_of(make("separate"), lambda output: output.policy.logits[..., 1]) == {"actor", "policy"}


def test_separate_memories_start_differently():
    network = make("separate")
    actor, critic = (torso.encoder.dense.layers[0].kernel[...] for torso in (network.actor, network.critic))
    assert not np.allclose(actor, critic)
    assert len(network.initial_state(B)) == 2


@pytest.mark.parametrize("name", SPACE.spaces)
def test_previous_inputs_are_seen(name):
    network = make(space=SPACE)
    xs = inputs()
    logits, value = run(network, xs, RESETS)
    changed = xs[name].copy()
    changed[2] += 1
    other_logits, other_value = run(network, xs | {name: changed}, RESETS)
    assert_close((other_logits[:2], other_value[:2]), (logits[:2], value[:2]), 1e-6)
    assert (np.abs(other_logits[2] - logits[2]).max(-1) > 1e-6).all()
    assert (np.abs(other_value[2] - value[2]) > 1e-4).all()


def test_environment_action_is_that_of_the_policy():
    box = Box(-1, 1, (2,))
    network = ActorCritic(VECTOR, box, [core_config("mlp")], NetworkConfig(**SMALL), rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(network.environment_action(jnp.array([[-3.0, 0.5]])), [[-1, 0.5]])


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"features": 0}, "network: features is 0, expected at least 1"),
        ({"encoder_sizes": (8, 0)}, "network: encoder_sizes is (8, 0), expected widths of 1 or more each"),
        ({"head_sizes": (-1,)}, "network: head_sizes is (-1,), expected widths of 1 or more each"),
    ],
    ids=str,
)
def test_errors_name_the_field(config, says):
    with pytest.raises(MemrlError) as error:
        NetworkConfig(**config)
    assert str(error.value) == says


def test_new_parameters_of_seeds_factorise_one_matrix_at_a_time():
    """Batched factorisations can hang on the CPU: see `memrl.cores.base.orthogonal`."""
    space: Any = Dict({"image": Box(0, 1, (8, 8, 3)), "vector": VECTOR})
    config = NetworkConfig(critic="separate", **SMALL)

    def new_parameters(key):
        return nnx.state(ActorCritic(space, Discrete(4), [core_config("gru")], config, rngs=nnx.Rngs(key)))

    jaxpr = jax.make_jaxpr(jax.vmap(new_parameters))(jax.random.split(jax.random.key(0), 2)).jaxpr
    factorised = [e.outvars[0].aval.ndim for e in equations(jaxpr) if e.primitive.name == "qr"]
    assert len(factorised) > 6
    assert set(factorised) == {2}


IMAGE = Box(0, 255, (6, 6, 2))


@pytest.mark.parametrize("space", [VECTOR, IMAGE], ids=["vector", "image"])
def test_bfloat16_computes_all_of_it_and_keeps_nothing(space):
    """Every product has bfloat16 operands; parameters, state and outputs are float32, and about the same."""
    config = NetworkConfig(precision="bfloat16", **SMALL)
    rough = ActorCritic(space, Discrete(4), [core_config("gru")], config, rngs=nnx.Rngs(0))
    fine = make(space=space)
    xs = normal(np.random.default_rng(0), (T, B, *space.shape))
    assert {x.dtype for x in jax.tree.leaves((nnx.state(rough), rough.initial_state(B)))} == {jnp.dtype(jnp.float32)}
    (state, (logits, value)), (other, outputs) = (unroll(n, n.initial_state(B), xs, RESETS) for n in (rough, fine))
    assert {x.dtype for x in jax.tree.leaves((state, logits, value))} == {jnp.dtype(jnp.float32)}
    assert_close((state, (logits, value)), (other, outputs), 0.03)
    assert (value != outputs[1]).all()
    graphdef, params = nnx.split(rough)
    for program, of in (("step", (xs[0], RESETS[0])), ("unroll", (xs, RESETS))):
        run = getattr(nnx.merge(graphdef, params), program)
        products = [
            equation
            for equation in equations(jax.make_jaxpr(lambda *x, run=run: run(rough.initial_state(B), *x))(*of).jaxpr)
            if equation.primitive.name in ("dot_general", "conv_general_dilated")
        ]
        float32 = [p for p in products if all(x.aval.dtype == jnp.float32 for x in p.invars)]
        assert len(float32) <= 1, "the recurrent product of the float32 state, and no other"
        assert len(products) > 5
