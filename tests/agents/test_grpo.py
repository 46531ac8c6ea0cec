"""GRPO: every variant's loss against plain loops over episodes, groups that start alike, probes with known policies."""

import dataclasses
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from probes import Erratic, Probe, Rewards, make_grpo
from quick import quick_jit

from memrl import GRPOConfig, MemrlError, core_config, list_cores
from memrl.agents.attempts import find_attempts, step_weights
from memrl.agents.grpo import VARIANTS
from memrl.envs import make_env

KEY = jax.random.key(3)
T, B, G = 12, 6, 3
SMALL = GRPOConfig(num_envs=B, num_steps=T, group_size=G, epochs=1, minibatches=1, learning_rate=1e-2)
smaller = partial(dataclasses.replace, SMALL)


def decisive(state):
    """The state with a policy that depends on the memory: a fresh one is nearly uniform, whatever it sees."""
    kernel = state.params["policy"]["output"]["kernel"]
    kernel[...] = 100 * kernel[...]
    return state


@partial(quick_jit, static_argnames=("env", "core", "config"))
def play(env, core, config, env_params, key):
    """The train state, the trajectory of a rollout, and what the network says of it again."""
    agent = make_grpo(env, config, core, params=env_params)
    state = decisive(agent.init(key))
    trajectory = agent.collect(state, key)[1]
    return state, trajectory, agent._replay(state, trajectory.transitions)


# ---- replay


@pytest.mark.parametrize(
    "core",
    [core if core in ("gru", "s5") else pytest.param(core, marks=pytest.mark.slow) for core in list_cores()],
)
def test_replay_equals_the_rollout(core):
    """Ratios are one right after collection; for all cores PPO's test runs in CI, with the same rollout."""
    _, trajectory, output = play(Erratic(), core_config(core), SMALL, Erratic().default_params, KEY)
    transitions = trajectory.transitions
    np.testing.assert_allclose(output.policy.log_prob(transitions.action), transitions.log_prob, atol=1e-4)
    assert transitions.log_prob.std() > 0.1
    assert transitions.reset[1:].any()
    assert output.value is transitions.value is trajectory.last_value is None


# ---- the loss


class Luck(Erratic):
    """Rewards of few values, so that some groups come out alike."""

    def step_env(self, key, state, action, params):
        observation, state, reward, terminated, info = super().step_env(key, state, action, params)
        return observation, state, jnp.floor(reward), terminated, info


FIELDS = {"num_envs": B, "num_steps": T, "group_size": G, "epochs": 1, "minibatches": 1}
CASES = {
    **{name: GRPOConfig.variant(name, **FIELDS) for name in ("grpo", "dr_grpo", "dapo", "gspo", "ada_grpo", "rloo")},
    "reinforce": GRPOConfig.variant("reinforce", **{**FIELDS, "group_size": 1}),
    "to go": smaller(credit="step", discount=0.9),
    "to go of all": smaller(credit="step", baseline="batch", scale=False),
    "cut episodes": smaller(unfinished="count", discount=0.8, clip_high=0.5),
    "cut episodes to go": smaller(unfinished="count", credit="step", mean_over="steps"),
    "diverse cut episodes": smaller(unfinished="count", diversity=True),
    "no baseline": smaller(baseline="none", ratio="episode", mean_over="constant"),
    "kl": smaller(kl_weight=0.3, entropy_weight=0.1, drop_equal=True),
}
UPDATE = 3  # of 10


@partial(quick_jit, static_argnames=("config",))
def losses(config, key):
    """The loss after the parameters have moved, its parts, and all that it is made of."""
    agent = make_grpo(Luck(), config)
    state = decisive(agent.init(key))._replace(update=jnp.int32(UPDATE))
    transitions = agent.collect(state, key)[1].transitions
    if state.reference is not None:
        state = state._replace(reference=moved(state.reference, 0.05))
    batch, facts = agent._make_batch(state, transitions)
    params = moved(state.params, 0.02)
    loss, (parts, _) = agent._loss(params, state, batch)
    output = agent._replay(state._replace(params=params), transitions)
    log_prob = output.policy.log_prob(transitions.action)
    return loss, parts, facts, (transitions, log_prob, output.policy.entropy(), batch.reference_log_prob)


def moved(params, amount):
    flat, unravel = ravel_pytree(params)
    return unravel(flat + amount * jnp.sin(jnp.arange(flat.size) * 1.0))


def naive_loss(config, transitions, log_prob, entropy, reference):
    """Episode by episode, in plain loops."""
    steps = jax.tree.map(np.asarray, transitions)
    done = steps.terminated | steps.truncated
    size = config.group_size
    episodes = {}
    for b in range(B):
        n = 0
        for t in range(T):
            episodes.setdefault((b, n), []).append(t)
            n += done[t, b]
    finished = {key for key, ts in episodes.items() if done[ts[-1], key[0]]}

    def peers(b, n):
        if config.baseline == "batch":
            return [key for key in episodes if key in counted]
        return [(p, n) for p in range(b // size * size, b // size * size + size) if (p, n) in counted]

    grouped = config.baseline in ("group", "leave_one_out")
    counted = set(episodes)
    if config.unfinished == "drop":
        counted = {
            (b, n)
            for b, n in finished
            if not grouped or all((p, n) in finished for p in range(b // size * size, b // size * size + size))
        }

    def to_go(key, k):
        return sum(config.discount**i * steps.reward[t, key[0]] for i, t in enumerate(episodes[key][k:]))

    score = {key: to_go(key, 0) for key in episodes}
    if config.diversity:
        mode = {key: steps.action[ts[-1], key[0]] for key, ts in episodes.items()}
        for key in counted:
            share = np.mean([mode[key] == mode[peer] for peer in peers(*key)])
            decay = share + 0.5 * (1 - share) * (1 + np.cos(np.pi * UPDATE / 9))
            score[key] *= decay / share
    terms = []  # (policy loss, kl, length) of each step that counts, by episode
    for key in sorted(counted):
        b, ts = key[0], episodes[key]
        group = [(p, key[1]) for p in range(b // size * size, b // size * size + size)]
        if config.drop_equal and len({score[p] for p in group}) == 1:
            continue
        log_ratio = np.array([log_prob[t, b] - steps.log_prob[t, b] for t in ts])
        if config.ratio == "episode":
            log_ratio = np.full(len(ts), log_ratio.mean())
        rows = []
        for k, t in enumerate(ts):
            if config.credit == "episode":
                mine, others = score[key], [score[peer] for peer in peers(*key)]
            elif config.baseline == "batch":
                mine, others = to_go(key, k), [to_go(p, i) for p in counted for i in range(len(episodes[p]))]
            else:
                mine, others = to_go(key, k), [to_go(p, k) for p in peers(*key) if len(episodes[p]) > k]
            advantage = mine
            if config.baseline == "leave_one_out":
                advantage = mine - (sum(others) - mine) / max(1, len(others) - 1)
            elif config.baseline != "none":
                advantage = (mine - np.mean(others)) / ((np.std(others) + 1e-6) if config.scale else 1)
            ratio, high = np.exp(log_ratio[k]), config.clip if config.clip_high is None else config.clip_high
            gain = min(ratio * advantage, np.clip(ratio, 1 - config.clip, 1 + high) * advantage)
            r = 0 if reference is None else reference[t, b] - log_prob[t, b]
            rows.append((-gain, np.exp(r) - r - 1))
        terms.append(np.array(rows))
    mean = {
        "episodes": lambda i: np.mean([rows[:, i].mean() for rows in terms]),
        "steps": lambda i: np.concatenate(terms)[:, i].mean(),
        "constant": lambda i: np.mean([rows[:, i].sum() / T for rows in terms]),
    }[config.mean_over]
    return mean(0), mean(1), mean(0) + config.kl_weight * mean(1) - config.entropy_weight * entropy.mean()


@pytest.mark.parametrize("case", CASES)
def test_losses(case):
    loss, parts, facts, inputs = losses(CASES[case], jax.random.key(5))
    policy_loss, kl, expected = naive_loss(CASES[case], *inputs)
    np.testing.assert_allclose(parts.policy_loss, policy_loss, rtol=1e-4, atol=1e-6)
    if CASES[case].kl_weight:
        np.testing.assert_allclose(parts.reference_kl, kl, rtol=1e-4)
        assert kl > 1e-3
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)
    assert parts.clip_fraction > 0.05
    if CASES[case].baseline == "group":
        assert 0 < facts["equal_episodes"] < 1
    assert (facts["counted_steps"] == 1) == (CASES[case].unfinished == "count")


def test_every_variant_is_tested():
    assert set(VARIANTS) - set(CASES) == {"s_grpo"}  # which needs another environment, below


def test_what_steps_weigh():
    """Two episodes of 1 and 3 steps, and one of 2 that does not count."""
    counts = jnp.array([1, 1, 1, 1, 0, 0], bool)[:, None]
    length = jnp.array([1, 3, 3, 3, 2, 2], jnp.float32)[:, None]
    expected: dict[Any, list[float]] = {
        "episodes": [1 / 2, 1 / 6, 1 / 6, 1 / 6, 0, 0],
        "steps": [1 / 4, 1 / 4, 1 / 4, 1 / 4, 0, 0],
        "constant": [1 / 12, 1 / 12, 1 / 12, 1 / 12, 0, 0],
    }
    for name, weights in expected.items():
        np.testing.assert_allclose(step_weights(counts, length, name, 6)[:, 0], weights, rtol=1e-6)
        assert not step_weights(counts & False, length, name, 6).any()


@pytest.mark.parametrize("case", ["grpo", "to go"])
def test_groups_without_spread_teach_nothing(case):
    """Exactly: all parameters stay as they are, to the bit."""
    config = dataclasses.replace(CASES[case], entropy_weight=0.0)

    @quick_jit
    def gradient(key):
        agent = make_grpo(Probe(), config, params=Rewards(steps=3, each=0.1))
        state = agent.init(key)
        batch, facts = agent._make_batch(state, agent.collect(state, key)[1].transitions)
        return jax.grad(agent._loss, has_aux=True)(state.params, state, batch)[0], facts

    gradients, facts = gradient(KEY)
    assert facts["equal_episodes"] == 1
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradients))


# ---- groups


def test_groups_start_alike():
    """Cue, limit and noise of the n-th episode are those of the group; other groups have others."""
    _, trajectory, _ = play(Erratic(), core_config("gru"), SMALL, Erratic().default_params, KEY)
    steps = jax.tree.map(np.asarray, trajectory.transitions)
    starts = [steps.observation[steps.reset[:, b], b] for b in range(B)]
    for b in range(B):
        leader = starts[b // G * G]
        shared = min(len(leader), len(starts[b]))
        np.testing.assert_array_equal(starts[b][:shared], leader[:shared])
    assert not np.array_equal(starts[0][0], starts[G][0])
    assert not np.array_equal(starts[0][0], starts[0][1])
    assert (steps.action[:, 0] != steps.action[:, 1]).any()


@pytest.mark.parametrize("shared", [True, False])
def test_chance_in_the_steps(shared):
    """Shared or not: what is drawn after the start, as long as the episodes run side by side."""
    config = smaller(shared_chance=shared)
    _, trajectory, _ = play(Erratic(), core_config("gru"), config, jnp.float32(0.0), KEY)
    seen = np.asarray(trajectory.transitions.observation)  # nothing terminates: episodes of a group are equally long
    groups = seen.reshape(T, B // G, G, -1)
    equal = (groups == groups[:, :, :1]).all((1, 2, 3))
    assert equal.all() if shared else not equal.all()
    np.testing.assert_array_equal(equal[0], True)


def test_each_update_starts_afresh():
    @quick_jit
    def two(key):
        agent = make_grpo(Probe(), smaller(num_steps=5), params=Rewards(steps=3))
        state = agent.init(key)
        following, _ = agent.update(state)
        first, second = agent.collect(state, key)[1], agent.collect(following, key)[1]
        return first.transitions, second.transitions

    for transitions in two(KEY):
        assert transitions.reset[0].all()
        np.testing.assert_array_equal(transitions.observation[0, :, 0], 0)


# ---- the reference


@pytest.mark.parametrize(("every", "renewed"), [(None, []), (2, [0, 2])])
def test_the_reference_moves_when_it_is_due(every, renewed):
    config = smaller(kl_weight=0.1, reference_updates=every, num_steps=4)

    @quick_jit
    def run(key):
        agent = make_grpo(Probe(), config, params=Rewards(steps=2, match=1.0))

        def update(state, _):
            after, _ = agent.update(state)
            return after, (ravel_pytree(state.params)[0], ravel_pytree(after.reference)[0])

        return jax.lax.scan(update, agent.init(key), length=4)[1]

    params, reference = (np.asarray(x) for x in run(KEY))
    assert (params[0] != params[3]).any()
    expected = params[0]
    for u in range(4):
        expected = params[u] if u in renewed else expected
        np.testing.assert_array_equal(reference[u], expected)


# ---- S-GRPO


def evidence(config, length=8):
    env, params = make_env("memory/EvidenceAccumulation", length=length, wait_cost=0.0)
    return make_grpo(env, config, params=params)


SERIAL = GRPOConfig.variant("s_grpo", num_envs=32, num_steps=8, group_size=8, minibatches=1)


@pytest.fixture(scope="module")
def serial():
    """A policy that would rather wait, and the first episodes of its rollout."""

    @quick_jit
    def collect(key):
        agent = evidence(SERIAL)
        state = agent.init(key)
        bias: Any = state.params["policy"]["output"]["bias"]
        bias[...] = bias[...] + jnp.array([0.0, 0.0, 3.0])
        transitions = agent.collect(state, key)[1].transitions
        return transitions, agent._make_batch(state, transitions)[0].advantage

    transitions, advantage = jax.tree.map(np.asarray, collect(KEY))
    length = transitions.terminated.argmax(0) + 1
    return SimpleNamespace(transitions=transitions, advantage=advantage, length=length)


def test_a_serial_group_takes_one_course(serial):
    steps = serial.transitions
    for b in range(0, 32, 8):
        for i in range(b, b + 8):
            for j in range(b, b + 8):
                k = min(serial.length[i], serial.length[j]) - 1
                np.testing.assert_array_equal(steps.action[:k, i], steps.action[:k, j])
                np.testing.assert_array_equal(steps.observation[: k + 1, i], steps.observation[: k + 1, j])


def test_a_serial_group_answers_at_several_times(serial):
    last = serial.transitions.action[serial.length - 1, np.arange(32)]
    groups = serial.length.reshape(4, 8)
    assert all(len(set(row)) >= 3 for row in groups)
    assert (groups.max(1) == groups[:, -1]).all()  # the last goes on for as long as the policy would
    assert set(last[serial.length < serial.length.max()]) == {0, 1}


def test_serial_advantages(serial):
    """By hand: who was right at the n-th time at which somebody was right has 2^-n; less the group's mean."""
    steps = serial.transitions
    for b in range(0, 32, 8):
        members, scores = range(b, b + 8), []
        for i in members:
            right = steps.reward[serial.length[i] - 1, i] > 0
            earlier = {
                int(serial.length[j])
                for j in members
                if serial.length[j] < serial.length[i] and steps.reward[serial.length[j] - 1, j] > 0
            }
            scores.append(right * 0.5 ** len(earlier))
        for i, score in zip(members, scores, strict=True):
            np.testing.assert_allclose(serial.advantage[: serial.length[i], i], score - np.mean(scores), atol=1e-6)


def test_only_episodes_that_ended_have_answered():
    """Of two groups of two, one begins a second episode: neither a cut episode nor one that never was, was right."""
    reset = jnp.array([[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    done = jnp.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], bool)
    reward = jnp.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])  # at the end the rollout cuts those of 0, 1, 2
    agent = evidence(GRPOConfig.variant("s_grpo", num_envs=4, num_steps=3, group_size=2, minibatches=1))
    reset = reset.at[2, 0].set(True)
    state: Any = SimpleNamespace(update=jnp.int32(0))
    steps: Any = SimpleNamespace(reward=reward)
    attempts = find_attempts(reset, done)
    rewards = agent._rewards(state, steps, attempts, attempts.length > 0)
    expected = reward.at[2, 3].set(0.5)  # environment 2 was right before; none was before the others
    np.testing.assert_array_equal(rewards, expected)


# ---- prefixes


def test_an_unshared_prefix_does_not_pass_unseen():
    config = smaller(prefix=4, shared_chance=False)

    @quick_jit
    def update(key):
        agent = make_grpo(Erratic(), config, params=jnp.float32(0.0))
        return agent.update(agent.init(key))[1]

    metrics = update(KEY)
    assert metrics["prefix_alike"] < 1
    assert metrics["nonfinite_steps"] == 1


def test_a_shared_prefix_gives_the_same_update():
    @partial(quick_jit, static_argnames=("prefix",))
    def update(prefix, key):
        agent = make_grpo(Erratic(), smaller(prefix=prefix), params=jnp.float32(0.0))
        state = decisive(agent.init(key))
        batch, _ = agent._make_batch(state, agent.collect(state, key)[1].transitions)
        gradient, losses = jax.grad(agent._loss, has_aux=True)(moved(state.params, 0.02), state, batch)
        return losses, gradient

    plain = update(0, KEY)
    for prefix in (4, T):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), update(prefix, KEY), plain)


# ---- learning


PROBES = {
    "action": Rewards(action=1.0),
    "match": Rewards(match=1.0),
    "remembered action": Rewards(steps=4, match=1.0),
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        pytest.param({"credit": "step"}, marks=pytest.mark.slow),
        pytest.param({"baseline": "leave_one_out", "scale": False}, marks=pytest.mark.slow),
    ],
)
def test_the_best_policy_is_found(fields):
    """Probes whose best policy is known; all in one program."""
    config = GRPOConfig(
        num_envs=32, num_steps=8, group_size=8, minibatches=1, learning_rate=1e-2, entropy_weight=0.0, **fields
    )

    @quick_jit
    def train(params, key):
        def one(params, key):
            agent = make_grpo(Probe(), config, params=params)
            state, _ = jax.lax.scan(lambda s, _: agent.update(s), agent.init(key), length=80)
            return agent.collect(state, key)[1].transitions

        return jax.vmap(one)(params, jax.random.split(key, len(PROBES) * 3))

    params = jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs] * 3), *PROBES.values())
    transitions = train(params, jax.random.key(0))
    mean = (transitions.reward * transitions.terminated).sum((1, 2)) / transitions.terminated.sum((1, 2))
    # The median of three seeds: without an entropy bonus, a run in fifty stops exploring too soon.
    np.testing.assert_array_less(0.95, np.median(mean.reshape(3, len(PROBES)), 0))


# ---- configuration

IMPOSSIBLE = {
    "group": ({"group_size": 4}, "group_size is 4, expected a divisor of num_envs = 6"),
    "one": ({"group_size": 1}, "group_size is 1, expected at least 2 to compare with"),
    "one mode": (
        {"group_size": 1, "baseline": "batch", "diversity": True},
        "group_size is 1, expected at least 2 to compare with",
    ),
    "none": ({"group_size": 0}, "group_size is 0, expected more than 0"),
    "minibatches": ({"minibatches": 4}, "minibatches is 4, expected a divisor of the 2 groups"),
    "prefix": ({"prefix": 13}, "prefix is 13, expected between 0 and num_steps = 12"),
    "discount": ({"discount": 1.5}, "discount is 1.5, expected between 0 and 1"),
    "clip": ({"clip_high": 0.0}, "clip_high is 0.0, expected more than 0"),
    "kl": ({"kl_weight": -1.0}, "kl_weight is -1.0, expected at least 0"),
    "reference": ({"reference_updates": 0}, "reference_updates is 0, expected more than 0"),
    "credit": ({"credit": "x"}, "credit is 'x', expected one of 'episode', 'step'"),
    "course": ({"serial": True, "shared_chance": False}, "shared_chance is False with serial, expected True"),
    "epochs": ({"epochs": 0}, "epochs is 0, expected at least 1"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_sizes_are_refused(case):
    fields, message = IMPOSSIBLE[case]
    with pytest.raises(MemrlError) as error:
        smaller(**fields)
    assert str(error.value).startswith(f"grpo: {message}")
    assert "\n" not in str(error.value)


def test_environments_that_lack_something_are_refused():
    with pytest.raises(MemrlError, match=r"^grpo: serial is True for Erratic, which has no actions that answer"):
        make_grpo(Erratic(), smaller(serial=True))
    with pytest.raises(MemrlError, match=r"^unknown variant of grpo 'grppo': did you mean 'grpo'"):
        GRPOConfig.variant("grppo")
