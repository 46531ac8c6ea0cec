"""PPO: losses and schedules on literal numbers, the update against a plain recomputation of it."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from probes import Erratic, Probe, Rewards, make_ppo
from quick import precise_jit

from memrl import MemrlError, PPOConfig, TitansConfig
from memrl.agents import ppo
from memrl.agents.minibatches import take
from memrl.agents.normaliser import normalise
from memrl.agents.ppo import clipped_policy_loss, clipped_value_loss, explained_variance
from memrl.agents.returns import generalised_advantages
from memrl.runner.layout import ONE_DEVICE
from memrl.runner.program import compile_chunk

KEY = jax.random.key(3)
T, B = 8, 4
TASK = Rewards(steps=3, match=1.0, each=0.1)
SMALL = PPOConfig(num_envs=B, num_steps=T, epochs=2, minibatches=1, learning_rate=1e-2)
smaller = partial(dataclasses.replace, SMALL)

init = partial(precise_jit, static_argnames=("env", "config"))(
    lambda env, config, params, key: make_ppo(env, config, params=params).init(key)
)
update = partial(precise_jit, static_argnames=("env", "config"))(
    lambda env, config, params, state: make_ppo(env, config, params=params).update(state)
)


def begin(config):
    return init(Probe(), config, TASK, KEY)


def advance(config, state, task=TASK):
    return update(Probe(), config, task, state)


def assert_same(actual, expected):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(raw(x), raw(y)), actual, expected)


def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


# ---- losses


def test_policy_loss():
    ratio = jnp.array([1.0, 1.5, 0.5, 1.5, 0.5, 1.1])
    advantage = jnp.array([2.0, 2.0, 2.0, -2.0, -2.0, 2.0])
    # Gains beyond 1.2 and losses below 0.8 do not count; going the wrong way always counts.
    expected = [-2.0, -2.4, -1.0, 3.0, 1.6, -2.2]
    np.testing.assert_allclose(clipped_policy_loss(jnp.log(ratio), advantage, 0.2), expected, rtol=1e-6)


def test_policy_gradient_stops_where_clipped():
    gradient = jax.vmap(jax.grad(clipped_policy_loss), (0, 0, None))
    log_ratio = jnp.log(jnp.array([1.0, 1.5, 0.5, 1.5, 0.5]))
    advantage = jnp.array([2.0, 2.0, 2.0, -2.0, -2.0])
    np.testing.assert_allclose(gradient(log_ratio, advantage, 0.2), [-2.0, 0.0, -1.0, 3.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (None, [0.5, 2.0, 0.5, 0.0]),
        # Values move from 0 by at most 1: the larger of both errors.
        (1.0, [0.5, 2.0, 2.0, 4.5]),
    ],
)
def test_value_loss(clip, expected):
    value, target = jnp.array([1.0, 0.0, 2.0, 4.0]), jnp.array([2.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(clipped_value_loss(value, jnp.zeros(4), target, clip), expected)


def test_explained_variance():
    target = jnp.array([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(target, target) == 1
    assert explained_variance(target + 7, target) == 1
    assert explained_variance(jnp.zeros(4), target) == 0
    np.testing.assert_allclose(explained_variance(2 * target, target), 0)
    np.testing.assert_allclose(explained_variance(jnp.array([1.0, 2.0, 3.0, 0.0]), target), 1 - 3 / 1.25)
    assert np.isnan(explained_variance(target, jnp.ones(4)))


# ---- learning rate

SCHEDULES = {
    ("constant", 0.0): [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ("linear", 0.0): [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
    ("constant", 0.4): [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1],
    ("linear", 0.5): [0.2, 0.4, 0.6, 0.8, 1, 1, 0.8, 0.6, 0.4, 0.2],
    ("linear", 0.25): [0.4, 0.8, 1, *(1 - (u - 2.5) / 7.5 for u in range(3, 10))],  # half an update too much
    ("cosine", 0.0): [(1 + np.cos(np.pi * u / 10)) / 2 for u in range(10)],
    ("cosine", 0.2): [0.5, 1, *((1 + np.cos(np.pi * u / 8)) / 2 for u in range(8))],
}


@pytest.mark.parametrize(("schedule", "warmup"), SCHEDULES)
def test_learning_rate(schedule, warmup):
    agent = make_ppo(Probe(), smaller(schedule=schedule, warmup=warmup, learning_rate=0.5), num_updates=10)
    rates = agent.learning_rate(jnp.arange(10))
    np.testing.assert_allclose(rates, 0.5 * np.array(SCHEDULES[schedule, warmup]), rtol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_learning_rate_of_the_shortest_run(schedule):
    agent = make_ppo(Probe(), smaller(schedule=schedule, warmup=0.5, learning_rate=0.5), num_updates=1)
    assert agent.learning_rate(jnp.int32(0)) == 0.5


# ---- one update, recomputed

NAIVE = {
    "whole": smaller(epochs=1, adam_epsilon=1.0, normalise_observations=True, max_gradient_norm=0.05),
    "chunks": smaller(
        epochs=1,
        adam_epsilon=1.0,
        chunk_length=4,
        value_clip=0.1,
        normalise_advantages=False,
        normalise_rewards=True,
    ),
}


def naive_advantages(config, trajectory, reward_scale):
    """Environment by environment."""
    transitions = trajectory.transitions
    columns = [
        generalised_advantages(
            transitions.reward[:, b] / reward_scale,
            transitions.value[:, b],
            transitions.terminated[:, b],
            transitions.truncated[:, b],
            transitions.final_value[:, b],
            trajectory.last_value[b],
            config.discount,
            config.trace,
        )
        for b in range(B)
    ]
    return jax.tree.map(lambda *xs: jnp.stack(xs, 1), *columns)


def naive_loss(agent, state, trajectory, advantages, params):
    """Step by step from each chunk's state, means over everything at the end."""
    config, transitions = agent.config, trajectory.transitions

    @jax.jit
    def step(params, memory, observation, reset, action):
        if config.normalise_observations:
            observation = normalise(state.observations, observation)
        memory, output = agent.network(state._replace(params=params)).step(memory, observation, reset)
        return memory, output.policy.log_prob(action), output.value, output.policy.entropy()

    memory, steps = None, []
    for t in range(T):
        if t % config.sequence_length == 0:
            memory = jax.tree.map(lambda x, c=t // config.sequence_length: x[c], trajectory.chunk_states)
        seen = transitions.observation[t], transitions.reset[t], transitions.action[t]
        memory, *outputs = step(params, memory, *seen)
        steps.append(outputs)
    log_prob, value, entropy = (jnp.stack(xs) for xs in zip(*steps, strict=True))
    ratio, A = jnp.exp(log_prob - transitions.log_prob), advantages.advantage
    if config.normalise_advantages:
        A = (A - A.mean()) / jnp.sqrt(((A - A.mean()) ** 2).mean())
    policy_loss = jnp.maximum(-ratio * A, -jnp.clip(ratio, 1 - config.clip, 1 + config.clip) * A)
    error = (value - advantages.value_target) ** 2
    if config.value_clip is not None:
        limit = config.value_clip
        near = jnp.clip(value, transitions.value - limit, transitions.value + limit)
        error = jnp.maximum(error, (near - advantages.value_target) ** 2)
    return policy_loss.mean() + config.value_weight * error.mean() / 2 - config.entropy_weight * entropy.mean()


def trajectory_of(agent, state):
    """What the next update will collect."""
    key = jax.random.fold_in(state.key, 2 * state.update)
    return precise_jit(agent.collect)(state, key)[1]


@pytest.mark.parametrize("name", NAIVE)
def test_update_equals_a_plain_recomputation(name):
    """One gradient step on everything. With an Adam epsilon of 1 the step is smooth in the gradient."""
    config, env = NAIVE[name], Erratic()
    agent = make_ppo(env, config)
    state, _ = update(env, config, env.default_params, init(env, config, env.default_params, KEY))
    after, metrics = update(env, config, env.default_params, state)

    trajectory = trajectory_of(agent, state)
    scale = jnp.sqrt(after.returns.moments.variance) if config.normalise_rewards else 1.0
    advantages = naive_advantages(config, trajectory, scale)
    plain_loss = partial(naive_loss, agent, state, trajectory, advantages)
    loss, gradient = precise_jit(jax.value_and_grad(plain_loss))(state.params)
    plain = optax.chain(
        optax.clip_by_global_norm(config.max_gradient_norm), optax.scale_by_adam(eps=config.adam_epsilon)
    )
    first_moment, second_moment = adam_moments(agent, state)
    memory = (optax.EmptyState(), optax.ScaleByAdamState(jnp.int32(1), first_moment, second_moment))
    steps, _ = plain.update(gradient, memory)

    # float32 sums in another order
    np.testing.assert_allclose(metrics["loss"], loss, atol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    assert metrics["gradient_norm"] > 0.1
    taken = jax.tree.map(lambda new, old: (old - new) / config.learning_rate, after.params, state.params)
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), taken, steps)
    # Right after collection the policy is that which collected, normalised observations or not.
    np.testing.assert_allclose(metrics["approximate_kl"], 0, atol=1e-6)
    assert metrics["clip_fraction"] == 0


def adam_moments(agent, state):
    """Adam's moments in the shape of the parameters: the agent keeps them as one flat vector."""
    _, unflatten = ravel_pytree(state.params)
    adam = state.optimiser[1]
    return unflatten(adam.mu), unflatten(adam.nu)


def test_normalised_rewards_follow_the_running_return():
    """Discounted sums since the start of each episode, over rollouts; their deviation divides the rewards."""
    config, env = NAIVE["chunks"], Erratic()
    agent = make_ppo(env, config)
    state, seen, total = init(env, config, env.default_params, KEY), [], np.zeros(B)
    for _ in range(2):
        transitions = jax.tree.map(np.asarray, trajectory_of(agent, state).transitions)
        for t in range(T):
            total = config.discount * total + transitions.reward[t]
            seen.append(total)
            total = np.where(transitions.terminated[t] | transitions.truncated[t], 0, total)
        state, _ = update(env, config, env.default_params, state)
    np.testing.assert_allclose(state.returns.running, total, rtol=1e-5)
    np.testing.assert_allclose(state.returns.moments.mean, np.mean(seen), rtol=1e-5)
    np.testing.assert_allclose(state.returns.moments.variance, np.var(seen), rtol=1e-4)


def test_observations_are_normalised_by_all_rollouts_before():
    config, env = NAIVE["whole"], Erratic()
    state = init(env, config, env.default_params, KEY)
    assert state.observations.samples == 0
    seen = []
    for _ in range(2):
        seen.append(np.asarray(trajectory_of(make_ppo(env, config), state).transitions.observation))
        state, _ = update(env, config, env.default_params, state)
    everything = np.concatenate(seen).reshape(-1, 2)
    np.testing.assert_allclose(state.observations.mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state.observations.variance, everything.var(0), rtol=1e-4)


# ---- epochs, minibatches, stopping


def test_every_sequence_is_used_once_per_epoch(monkeypatch):
    config = smaller(epochs=3, minibatches=2, chunk_length=4)
    used, plain_select = [], ppo.select

    def select(batch, chosen):
        sequences = take(jnp.arange(8), chosen, axis=0)
        jax.debug.callback(lambda x: used.append(np.asarray(x)), sequences, ordered=True)
        return plain_select(batch, chosen)

    monkeypatch.setattr(ppo, "select", select)
    state = begin(config)
    state, _ = precise_jit(make_ppo(Probe(), config, params=Rewards()).update)(state)
    jax.effects_barrier()
    assert [len(sequences) for sequences in used] == [4] * 6
    epochs = [np.concatenate(used[i : i + 2]) for i in (0, 2, 4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(8))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_target_kl_stops_the_update():
    """The first step sees no divergence, the second one more than this; the rest must change nothing."""
    stopped, metrics = advance(smaller(epochs=4, target_kl=1e-6), begin(SMALL))
    short, short_metrics = advance(SMALL, begin(SMALL))  # two steps
    assert metrics["gradient_steps"] == 2
    assert short_metrics["gradient_steps"] == 2
    for actual, expected in ((stopped.params, short.params), (stopped.optimiser, short.optimiser)):
        # The order of a minibatch of everything differs, and so does the rounding of its sums.
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), actual, expected)
    for name in ("loss", "entropy", "approximate_kl", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], short_metrics[name], rtol=1e-3, atol=1e-5, err_msg=name)
    changed = jax.tree.map(lambda x, y: np.abs(x - y).max(), begin(SMALL).params, short.params)
    assert max(jax.tree.leaves(changed)) > 1e-3


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_counted(reward):
    _, metrics = advance(SMALL, begin(SMALL), Rewards(each=reward))
    assert metrics["nonfinite_steps"] == 2
    assert metrics["gradient_steps"] == 2


def known_inner_loss(config):
    """An agent and a state whose memory says 0 where it should say SiLU(1) = 0.7310586 twice."""
    core = TitansConfig(width=2, depth=1, conv_width=1)
    agent = make_ppo(Probe(), config, core, Rewards(steps=3, match=1.0))
    state = precise_jit(agent.init)(KEY)
    network: Any = agent.network(state)
    core = network.actor.memory.layers[0].core
    for param in (core.project.kernel, core.network.layers[0]):
        param[...] = jnp.zeros_like(param[...])
    core.convolution.kernel[...] = jnp.ones((1, 6))
    core.project.bias[...] = core.project.bias[...].at[4:6].set(1.0)
    return agent, state._replace(params=nnx.split(network)[1])


def test_what_the_memory_measures_is_reported():
    """For each seed, also where an update may end early; and nothing where the memory measures nothing."""
    agent, state = known_inner_loss(smaller(learning_rate=1e-9, target_kl=1.0))
    states = jax.tree.map(lambda *x: jnp.stack(x), state, state)
    _, metrics = compile_chunk(agent.update, 2, states)(states, 1)
    np.testing.assert_allclose(metrics["inner_loss"], np.full((1, 2), 2 * 0.7310586**2), rtol=1e-6)
    assert "inner_loss" not in jax.eval_shape(make_ppo(Probe(), SMALL).update, begin(SMALL))[1]


def test_metrics_of_the_memory_tell_the_reasons_of_a_nan():
    """A loss that is NaN for its rewards makes the parameters NaN, and then the inner loss: that is not its fault."""
    agent, state = known_inner_loss(smaller(learning_rate=1e-9))
    rewarded = dataclasses.replace(agent, env_params=Rewards(each=np.nan))
    _, metrics = precise_jit(rewarded.update)(state)
    assert metrics["nonfinite_steps"] == 2
    np.testing.assert_allclose(metrics["inner_loss"], 2 * 0.7310586**2, rtol=1e-6)
    agent = make_ppo(Probe(), SMALL, TitansConfig(width=4, max_learning_rate=1e30), Rewards(steps=100))
    _, metrics = precise_jit(lambda key: agent.update(agent.init(key)))(KEY)
    assert metrics["nonfinite_steps"] == 2
    assert not np.isfinite(metrics["inner_loss"])


def test_metrics_are_scalars():
    metrics = advance(SMALL, begin(SMALL))[1]
    assert all(value.shape == () for value in metrics.values())
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert metrics["nonfinite_steps"] == 0
    assert metrics["learning_rate"] == np.float32(1e-2)
    np.testing.assert_allclose(metrics["episode_length"], 3)


def test_only_statistics_of_nothing_are_nan():
    metrics = advance(SMALL, begin(SMALL), Rewards(steps=100, each=1.0))[1]
    assert {name for name, value in metrics.items() if np.isnan(value)} == {
        "episode_return",
        "episode_length",
    }
    assert metrics["episodes"] == 0


# ---- the same bits, however it is run


def ten_updates(key):
    agent = make_ppo(Probe(), SMALL, params=TASK)
    return jax.lax.scan(lambda state, _: agent.update(state), agent.init(key), length=10)


quick_ten_updates = precise_jit(ten_updates)


def test_scanned_updates_equal_single_ones_bit_for_bit():
    scanned, metrics = quick_ten_updates(KEY)
    state, rows = begin(SMALL), []
    for _ in range(10):
        state, row = advance(SMALL, state)
        rows.append(row)
    assert_same(state, scanned)
    assert_same(jax.tree.map(lambda *xs: jnp.stack(xs), *rows), metrics)
    assert state.update == 10


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_chunks_equal_one_scan_bit_for_bit(seeds):
    """As the runner drives it, donated buffers included: 1 + 3 + 6 updates."""
    agent = make_ppo(Probe(), SMALL, params=TASK)
    keys = jax.random.split(KEY, seeds)
    states = jax.jit(ONE_DEVICE.over_seeds(agent.init, seeds))(keys)
    run_chunk = compile_chunk(agent.update, seeds, states)
    for count in (1, 3, 6):
        states, _ = run_chunk(states, count)
    scanned, _ = jax.jit(ONE_DEVICE.over_seeds(ten_updates, seeds))(keys)
    assert_same(states, scanned)


def test_seeds_side_by_side_equal_seeds_alone_for_ten_updates():
    keys = jax.random.split(KEY, 2)
    together, _ = precise_jit(jax.vmap(ten_updates))(keys)
    for i, key in enumerate(keys):
        alone, _ = quick_ten_updates(key)
        # Batched products round otherwise, and twenty steps of Adam amplify that.
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, atol=1e-5), together.params, alone.params)


def test_train_state_can_be_donated():
    """Two leaves in one buffer cannot both be given away."""
    config = NAIVE["chunks"]
    state = init(Erratic(), config, Erratic().default_params, KEY)
    for now in (state, update(Erratic(), config, Erratic().default_params, state)[0]):
        buffers = [raw(x).unsafe_buffer_pointer() for x in jax.tree.leaves(now) if x.size]
        assert len(buffers) == len(set(buffers))


def test_each_update_draws_anew():
    state, _ = advance(SMALL, begin(SMALL))
    again, _ = advance(SMALL, state._replace(rollout=begin(SMALL).rollout, params=begin(SMALL).params))
    assert (state.rollout.environment.cue != again.rollout.environment.cue).any()


# ---- configuration

IMPOSSIBLE = {
    "type": ({"num_envs": 8.0}, "num_envs is 8.0, expected int"),
    "schedule": ({"schedule": "x"}, "schedule is 'x', expected one of 'constant', 'linear', 'cosine'"),
    "num_envs": ({"num_envs": 0}, "num_envs is 0, expected at least 1"),
    "num_steps": ({"num_steps": 0}, "num_steps is 0, expected at least 1"),
    "epochs": ({"epochs": -1}, "epochs is -1, expected at least 1"),
    "minibatches": ({"minibatches": 0}, "minibatches is 0, expected at least 1"),
    "sequences": ({"num_envs": 6}, "minibatches is 4, expected a divisor of the 6 sequences"),
    "chunks": ({"chunk_length": 5}, "chunk_length is 5, expected a divisor of num_steps = 8"),
    "no chunk": ({"chunk_length": 0}, "chunk_length is 0, expected a divisor of num_steps = 8"),
    "long chunk": ({"chunk_length": 16}, "chunk_length is 16, expected a divisor of num_steps = 8"),
    "discount": ({"discount": 1.1}, "discount is 1.1, expected between 0 and 1"),
    "trace": ({"trace": -0.1}, "trace is -0.1, expected between 0 and 1"),
    "clip": ({"clip": 0.0}, "clip is 0.0, expected more than 0"),
    "learning_rate": ({"learning_rate": float("nan")}, "learning_rate is nan, expected more than 0"),
    "max_gradient_norm": ({"max_gradient_norm": -1.0}, "max_gradient_norm is -1.0, expected more than 0"),
    "value_clip": ({"value_clip": 0.0}, "value_clip is 0.0, expected more than 0"),
    "target_kl": ({"target_kl": -1.0}, "target_kl is -1.0, expected more than 0"),
    "warmup": ({"warmup": 1.0}, "warmup is 1.0, expected at least 0 and less than 1"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_sizes_are_refused(case):
    fields, message = IMPOSSIBLE[case]
    with pytest.raises(MemrlError) as error:
        PPOConfig(**{"num_envs": 4, "num_steps": 8, "minibatches": 4, **fields})
    assert str(error.value).startswith(f"ppo: {message}")
    assert "\n" not in str(error.value)


def test_derived_sizes():
    config = PPOConfig(num_envs=6, num_steps=8, chunk_length=4, minibatches=3)
    assert (config.steps_per_update, config.sequence_length, config.sequences_per_minibatch) == (48, 4, 4)
    whole = PPOConfig(num_envs=6, num_steps=8, minibatches=3)
    assert (whole.sequence_length, whole.sequences_per_minibatch) == (8, 2)
