"""Several attempts at the same task in one episode, so that learning within it pays (RL^2).

Source: Duan et al. 2016, "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning",
https://arxiv.org/abs/1611.02779.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memrl.envs.base import EnvParams, EnvState, StepResult
from memrl.envs.wrappers import Wrapper
from memrl.errors import check
from memrl.spaces import Box, Dict, Space
from memrl.types import Array, Key, Observation, PyTree


class TrialsState(NamedTuple):
    """The inner state, the count of trials, and where each starts."""

    env_state: EnvState
    trial: Array  # int32, trials that have ended in this episode
    start: tuple[Observation, EnvState] | None  # first observation and inner state of the episode, if trials share it


@dataclass(frozen=True)
class Trials(Wrapper):
    """An episode is `trials` episodes of the inner environment, one after another: the agent keeps its memory.

    With `same_start` each trial starts from the very state that the first started from. Whatever the inner reset
    drew, be it a cue, hidden odds or the matrix of a `RandomProjection`, thus stays for the episode; only chance
    within the steps differs. Without it each trial starts as the inner environment resets itself, and what shall
    outlast a trial must lie outside: `RandomProjection(Trials(env, n, same_start=False), d)`, which projects
    `trial_start` along with the rest.

    An end inside is no end outside, be it terminated or truncated; the end of the last trial is, with its flags. The
    inner time limit, `params.max_steps_in_episode`, holds for each trial. An agent of RL^2 also sees its last action
    and reward: `PreviousStep(Trials(env, n), reward=True)` shows them across trials.

    Observation: Dict of "observation", that of the inner environment, and "trial_start" [1] float32, which is 1 on
    the first observation of each trial and else 0. The observation that ended a trial gives way to the first of the
    next, except at the end of the episode, where it is the final one. Action and rewards: as inside.
    """

    trials: int
    same_start: bool = True

    def __post_init__(self) -> None:
        """Raises `MemrlError` for less than one trial."""
        check(self.trials >= 1, f"trials of Trials is {self.trials}, expected at least 1")

    @property
    def answer_actions(self) -> tuple[int, ...]:
        """None: an answer ends a trial, and not the episode."""
        return ()

    def observation_space(self, params: EnvParams) -> Dict:
        """The inner observation and the flag."""
        return trial_space(self.env.observation_space(params))

    def reset(self, key: Key, params: EnvParams = None) -> tuple[Observation, TrialsState]:
        """Starts the first trial."""
        observation, env_state = self.env.reset(key, params)
        start = (observation, env_state) if self.same_start else None
        return trial_observation(observation, True), TrialsState(env_state, jnp.zeros((), jnp.int32), start)

    def step(self, key: Key, state: TrialsState, action: Array, params: EnvParams = None) -> StepResult:
        """Goes on with the trial, or where it ends, with the next."""
        observation, env_state, reward, terminated, truncated, info = self.env.step(
            key, state.env_state, action, params
        )
        over = terminated | truncated
        trial = state.trial + over
        end = over & (trial >= self.trials)
        start = None
        if state.start is not None:  # inside a new task has begun, which is due after the last trial only
            start = _where(end, (observation, env_state), state.start)
            observation, env_state = _where(over, start, (observation, env_state))
        final = trial_observation(_where(end, info["final_observation"], observation), over & ~end)
        state = TrialsState(env_state, jnp.where(end, 0, trial), start)
        info = {**info, "final_observation": final}
        return trial_observation(observation, over), state, reward, end & terminated, end & truncated, info


def trial_space(space: Space) -> Dict:
    """The space of `trial_observation`."""
    return Dict({"observation": space, "trial_start": Box(0.0, 1.0, (1,), jnp.float32)})


def trial_observation(observation: Observation, trial_start: Array | bool) -> dict[str, Observation]:
    """An observation with the flag that a trial starts with it."""
    return {"observation": observation, "trial_start": jnp.reshape(jnp.asarray(trial_start, jnp.float32), (1,))}


def _where(condition: Array, left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), left, right)
