"""What a user can get wrong about the state-space cores, and how these cores start."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cores.numeric import assert_close
from flax import nnx

from memrl import MemrlError, make_core
from memrl.cores.hippo import normal_spectrum

MISTAKES = [
    ("lru", {"state_size": 0}, "core lru: state_size is 0, expected more than 0"),
    ("lru", {"max_phase": 0.0}, "core lru: max_phase is 0.0, expected more than 0"),
    ("lru", {"r_min": -0.1}, "core lru: r_min is -0.1, expected at least 0"),
    ("lru", {"r_min": 0.9, "r_max": 0.8}, "core lru: r_max is 0.8, expected in (0.9, 1]"),
    ("lru", {"r_max": 1.1}, "core lru: r_max is 1.1, expected in (0.0, 1]"),
    ("lru", {"activation": "glu"}, "core lru: activation is 'glu', expected one of 'full_glu', 'half_glu', "),
    ("s4d", {"state_size": 0}, "core s4d: state_size is 0, expected more than 0"),
    ("s4d", {"state_size": 5}, "core s4d: state_size is 5, expected an even number"),
    ("s4d", {"dt_min": 0.0}, "core s4d: dt_min is 0.0, expected more than 0"),
    ("s4d", {"dt_min": 0.1, "dt_max": 0.01}, "core s4d: dt_max is 0.01, expected at least 0.1"),
    ("s4d", {"init": "real"}, "core s4d: init is 'real', expected one of 'lin', 'inv', 'legs'"),
    ("s4d", {"discretisation": "euler"}, "core s4d: discretisation is 'euler', expected one of 'zoh', 'bilinear'"),
    ("s4", {"state_size": 7}, "core s4: state_size is 7, expected an even number"),
    ("s4", {"state_size": -2}, "core s4: state_size is -2, expected more than 0"),
    ("s4", {"chunk_size": 0}, "core s4: chunk_size is 0, expected more than 0"),
    ("s4", {"dt_min": 0.1, "dt_max": 0.01}, "core s4: dt_max is 0.01, expected at least 0.1"),
    ("lssl", {"state_size": 0}, "core lssl: state_size is 0, expected more than 0"),
    ("lssl", {"channels": 0}, "core lssl: channels is 0, expected more than 0"),
    ("lssl", {"chunk_size": -1}, "core lssl: chunk_size is -1, expected more than 0"),
    ("lssl", {"alpha": 0.4}, "core lssl: alpha is 0.4, expected from 0.5 (bilinear) to 1 (backward Euler)"),
    ("lssl", {"alpha": 1.5}, "core lssl: alpha is 1.5, expected from 0.5 (bilinear) to 1 (backward Euler)"),
    ("lssl", {"dt_min": 0.1, "dt_max": 0.01}, "core lssl: dt_max is 0.01, expected at least 0.1"),
]


@pytest.mark.parametrize(("name", "hyperparameters", "says"), MISTAKES, ids=str)
def test_mistakes_with_state_spaces(name, hyperparameters, says):
    with pytest.raises(MemrlError, match="^" + re.escape(says)) as error:
        make_core(name, 8, rngs=nnx.Rngs(0), **hyperparameters)
    assert "\n" not in str(error.value)


def test_lru_starts_on_its_ring():
    core: Any = make_core("lru", 4, rngs=nnx.Rngs(0), state_size=4000, r_min=0.5, r_max=0.9, max_phase=1.5)
    radius = np.exp(-np.exp(np.asarray(core.nu[...])))
    phase = np.exp(np.asarray(core.theta[...]))
    assert radius.min() >= 0.5
    assert radius.max() <= 0.9
    # Uniform by area: the squares of the radii are uniform.
    np.testing.assert_allclose(np.mean(radius**2), (0.25 + 0.81) / 2, atol=0.01)
    np.testing.assert_allclose(np.quantile(phase, [0, 0.5, 1]), [0, 0.75, 1.5], atol=0.05)
    np.testing.assert_allclose(np.exp(core.log_gamma[...]), np.sqrt(1 - radius**2), rtol=1e-4)


def test_s4d_starts_at_the_published_frequencies():
    def frequencies(init):
        core: Any = make_core("s4d", 3, rngs=nnx.Rngs(0), state_size=8, init=init)
        np.testing.assert_allclose(np.exp(core.log_real[...]), 0.5, rtol=1e-6)
        return np.asarray(core.imag[...])[1]

    np.testing.assert_allclose(frequencies("lin"), np.pi * np.array([0, 1, 2, 3]), rtol=1e-6)
    inverse = 8 / np.pi * np.array([8 / 1 - 1, 8 / 3 - 1, 8 / 5 - 1, 8 / 7 - 1])
    np.testing.assert_allclose(frequencies("inv"), inverse, rtol=1e-6)
    np.testing.assert_allclose(frequencies("legs"), normal_spectrum("legs", 8)[0].imag, rtol=1e-6)


@pytest.mark.parametrize("name", ["lssl", "s4", "s4d"])
def test_a_large_batch_steps_as_a_small_one_does(name):
    """A sum over states that is spread over them again is computed wrongly for large arrays by jaxlib 0.10.2."""
    core = make_core(name, 16, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    state, x = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (core.initial_state(64).shape, (64, 16)))
    step = jax.jit(lambda state, x: core.step(state, x, jnp.zeros(len(x), bool)))
    assert_close(jax.tree.map(lambda z: z[:2], step(state, x)), step(state[:2], x[:2]), 1e-5)
