"""Titans' memory with attention: what a user can get wrong, what persistent tokens do, and what a segment sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, assert_finite, normal
from flax import nnx
from quick import quick_jit

from memrl import MemrlError, make_core

NAMES = ["titans_mac", "titans_mag", "titans_mal"]
T, B, D = 9, 2, 8

MISTAKES = [
    ("titans_mac", {"persistent": -1}, "core titans_mac: persistent is -1, expected at least 0"),
    ("titans_mac", {"chunk_length": 0}, "core titans_mac: chunk_length is 0, expected more than 0"),
    ("titans_mac", {"heads": 3}, "core titans_mac: features is 8, expected a multiple of heads = 3"),
    ("titans_mac", {"heads": 8}, "core titans_mac: features / heads is 1, expected an even number for rotary pairs"),
    ("titans_mac", {"width": 0}, "core titans_mac: width is 0, expected more than 0"),
    ("titans_mag", {"attention_window": 0}, "core titans_mag: attention_window is 0, expected more than 0"),
    ("titans_mag", {"persistent": -1}, "core titans_mag: persistent is -1, expected at least 0"),
    ("titans_mag", {"heads": 3}, "core titans_mag: features is 8, expected a multiple of heads = 3"),
    ("titans_mag", {"rotary_base": 0.0}, "core titans_mag: rotary_base is 0.0, expected more than 0"),
    ("titans_mag", {"conv_width": 0}, "core titans_mag: conv_width is 0, expected more than 0"),
    ("titans_mal", {"attention_window": 0}, "core titans_mal: attention_window is 0, expected more than 0"),
    ("titans_mal", {"heads": 0}, "core titans_mal: heads is 0, expected more than 0"),
    ("titans_mal", {"bias_power": 1.0}, "core titans_mal: bias_power is 1.0, expected at least 2"),
]


@pytest.mark.parametrize(("name", "hyperparameters", "says"), MISTAKES, ids=str)
def test_mistakes(name, hyperparameters, says):
    with pytest.raises(MemrlError) as error:
        make_core(name, D, rngs=nnx.Rngs(0), **hyperparameters)
    assert str(error.value) == says


def make(name, **hyperparameters):
    sizes = {"width": 4, "chunk_length": 4} | ({} if name == "titans_mac" else {"attention_window": 3})
    return make_core(name, D, rngs=nnx.Rngs(0), **sizes | hyperparameters)


@pytest.mark.parametrize("name", NAMES)
def test_every_step_sees_the_persistent_tokens(name):
    core, rng = make(name), np.random.default_rng(0)
    xs = normal(rng, (T, B, D))
    resets = jnp.zeros((T, B), bool).at[6].set(True)
    unroll = nnx.jit(lambda core: core.unroll(core.initial_state(B), xs, resets)[1])
    before = unroll(core)
    tokens = nnx.state(core, lambda path, _: path[-1] == "persistent")
    assert [x.shape for x in jax.tree.leaves(tokens)] == [(4, D)]
    nnx.update(core, jax.tree.map(lambda x: x + 1, tokens))
    assert (np.abs(unroll(core) - before).max(-1) > 1e-3).all()


@pytest.mark.parametrize("name", NAMES)
def test_without_persistent_tokens_there_are_no_parameters_for_them(name):
    paths = [str(path) for path, _ in jax.tree.leaves_with_path(nnx.state(make(name, persistent=0)))]
    assert not any("persistent" in path for path in paths)


def test_a_segment_sees_others_through_the_memory_alone():
    """With a memory that cannot learn, a segment of four steps knows nothing of those before it."""
    core = make("titans_mac", max_learning_rate=1e-30, conv_width=1, retention="none")
    xs = normal(np.random.default_rng(0), (T, B, D))

    def last_output(xs):
        return jnp.sum(core.unroll(core.initial_state(B), xs, jnp.zeros((T, B), bool))[1][7])

    slopes = np.abs(quick_jit(jax.grad(last_output))(xs)).max((1, 2))
    assert (slopes[4:8] > 1e-4).all()
    assert (slopes[[0, 1, 2, 3, 8]] < 1e-12).all()


def test_what_was_poisoned_before_a_reset_reaches_no_gradient_of_rows_that_wait():
    """One row's last segment is empty while the other's is not."""
    core, rng = make("titans_mac"), np.random.default_rng(0)
    graphdef, params, rest = nnx.split(core, nnx.Param, ...)
    xs = normal(rng, (6, B, D))
    resets = jnp.zeros((6, B), bool).at[0].set(True)
    fresh = core.initial_state(B)
    phase = jnp.array([0, 3], jnp.int32)  # segments of 4 and 2 steps, and of 1, 4 and 1

    @quick_jit
    def gradients(value):
        state = jax.tree.map(lambda x: jnp.full_like(x, value) if x.dtype == jnp.float32 else x, fresh)
        memory = state.memory._replace(memory=state.memory.memory._replace(phase=phase))

        def loss(params):
            return jnp.sum(nnx.merge(graphdef, params, rest).unroll(state._replace(memory=memory), xs, resets)[1])

        return jax.grad(loss)(params)

    poisoned = gradients(jnp.nan)
    assert_finite(poisoned)
    assert_close(poisoned, gradients(0.0), 1e-6)
