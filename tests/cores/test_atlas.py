"""The window of the Omega rule and the features of Atlas, by themselves; its equations are in the contract."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close, normal
from flax import nnx
from quick import quick_jit

from memrl import make_core
from memrl.cores.inner_window import Tokens, by_token, no_tokens, shares, tokens_of_chunks, windows, with_the_past
from memrl.cores.polynomial import PolynomialFeatures


def test_powers_of_each_entry():
    features = PolynomialFeatures(3)
    assert_close(features(jnp.array([2.0, -3.0])), np.array([2, -3, 4 / 2, 9 / 2, 8 / 6, -27 / 6]), 1e-6)


def tokens_from(numbers, episodes):
    """Tokens whose key is their number, [T, B]."""
    k = jnp.asarray(numbers, jnp.float32)
    return Tokens(k[..., None], k[..., None], k, jnp.asarray(episodes, jnp.int32))


def test_gates_go_from_the_oldest_token_to_the_own_one():
    """Episodes of 1 and 3 steps, after a state with one token; then a gap of the grid."""
    gates = jnp.tile(jnp.array([0.1, 0.2, 0.3]), (5, 1))[None, None]
    real = jnp.array([[[True, True, True, True, False]]])
    episodes = jnp.array([[[-1, 0, 0, 1, 1, 1, 0]]])
    expected = [[0, 0.2, 0.3], [0, 0, 0.3], [0, 0.2, 0.3], [0.1, 0.2, 0.3], [0, 0, 0]]
    assert_close(shares(gates, real, episodes)[0, 0], np.array(expected), 1e-6)


@pytest.mark.parametrize("c", [1, 2, 4])
def test_amounts_of_steps_as_amounts_of_tokens(c):
    rng, C = np.random.default_rng(0), 3
    amounts, gamma = normal(rng, (2, 5, C)), normal(rng, (2, C, c))
    expected = np.zeros((2, 5, C + c - 1))
    for s, j in np.ndindex(C, c):
        expected[:, :, s + j] += amounts[:, :, s] * gamma[:, None, s, j]
    assert_close(by_token(jnp.asarray(amounts), jnp.asarray(gamma)), expected, 1e-6)


@pytest.mark.parametrize("c", [1, 3, 4, 8])
def test_every_step_finds_the_tokens_before_it(c):
    """Token t of row b is 100 b + t + c, so that those of the state begin with 100 b + 1; C = 3, in every phase."""
    T, C, phase = 7, 3, jnp.array([0, 1, 2])
    numbers = 100 * np.arange(3)[None] + np.arange(1 - c, T)[:, None] + c
    chunks = tokens_of_chunks(tokens_from(numbers, np.zeros_like(numbers)), phase, T, C)
    seen = jax.vmap(lambda x: windows(x, c))(chunks.threshold)  # [M, B, C, c]
    for t, b in np.ndindex(T, 3):
        slot = t + int(phase[b])
        assert_close(seen[slot // C, b, slot % C], numbers[t : t + c, b], 0)


def test_the_state_keeps_the_running_episode():
    """Of the last token the second row has not got one."""
    past: Any = no_tokens(2, window=4, inputs=1, width=1)
    tokens, past = with_the_past(past, tokens_from([[1, 2], [3, 4]], [[0, 0], [0, 1]]), jnp.array([2, 2]))
    assert tokens.threshold.tolist() == [[0, 0], [0, 0], [0, 0], [1, 2], [3, 4]]
    assert past.threshold.tolist() == [[0, 1, 3], [0, 0, 4]]
    assert past.episode.tolist() == [[-1, 0, 0], [-1, -1, 0]]
    _, past = with_the_past(past, tokens_from([[5, 6]], [[0, 0]]), jnp.array([1, 0]))
    assert past.threshold.tolist() == [[1, 3, 5], [0, 0, 4]]
    assert past.episode.tolist() == [[0, 0, 0], [-1, -1, 0]]


def test_the_window_is_no_state_of_the_others():
    def size(name, **hyperparameters):
        state: Any = make_core(name, 8, rngs=nnx.Rngs(0), **hyperparameters).initial_state(1)
        return sum(x.nbytes for x in jax.tree.leaves(state.memory.past)), sum(x.nbytes for x in jax.tree.leaves(state))

    assert size("titans")[0] == size("atlas", window=1)[0] == 0
    past, state = size("atlas")
    assert past == 4 * 3 * (64 + 32 + 2)
    assert state == 4 * (3 * (64 * 64 + 64 * 32) + 3 * 96 + 1) + past  # 74 KB


def test_a_window_of_one_with_a_gate_that_is_open_is_no_window():
    """Atlas whose gates let only the own token through, and that in full, against itself without a window."""
    hyperparameters = {"width": 6, "chunk_length": 4}
    wide: Any = make_core("atlas", 8, rngs=nnx.Rngs(0), window=3, **hyperparameters)
    plain: Any = make_core("atlas", 8, rngs=nnx.Rngs(0), window=1, **hyperparameters)
    for part in ("convolution", "features_of", "network", "norm", "output"):
        setattr(plain, part, getattr(wide, part))
    plain.project.kernel[...] = wide.project.kernel[...][:, :-3]
    plain.project.bias[...] = wide.project.bias[...][:-3]
    wide.project.kernel[...] = wide.project.kernel[...].at[:, -3:].set(0)
    wide.project.bias[...] = wide.project.bias[...].at[-3:].set(jnp.array([-60.0, -60.0, 60.0]))
    rng = np.random.default_rng(0)
    xs, resets = normal(rng, (9, 2, 8)), jnp.asarray(rng.random((9, 2)) < 0.2)
    ys = [quick_jit(core.unroll)(core.initial_state(2), xs, resets)[1] for core in (wide, plain)]
    assert_close(ys[0], ys[1], 1e-5)
