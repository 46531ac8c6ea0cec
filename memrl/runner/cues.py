"""What a task hides and its agent has to remember: by task, a name, and where it is in the state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from memrl.envs.base import Environment
from memrl.envs.memory.bsuite import MemoryChain
from memrl.envs.memory.copying import Copy
from memrl.envs.memory.delayed_match import DelayedMatch
from memrl.envs.memory.evidence_accumulation import EvidenceAccumulation
from memrl.envs.memory.key_to_door import KeyToDoor
from memrl.envs.memory.parity import Parity
from memrl.envs.memory.passkey import Passkey
from memrl.envs.memory.set_disjointness import SetDisjointness
from memrl.envs.memory.tmaze import TMaze, TMazeActive
from memrl.envs.meta.bandits import BernoulliBandit, GaussianBandit
from memrl.envs.popgym.autoencode import Autoencode
from memrl.envs.popgym.multiarmed_bandit import MultiarmedBandit
from memrl.envs.popgym.repeat_first import RepeatFirst
from memrl.envs.popgym.repeat_previous import RepeatPrevious


class Cue(NamedTuple):
    """What is hidden in the states of a task."""

    name: str
    of: Callable[[Any], Any]  # of states [...]: integers [...], or several of each [..., M]


_CUES: dict[type, Cue] = {
    Autoencode: Cue("first card", lambda state: state.suits[..., 0]),
    BernoulliBandit: Cue("best arm", lambda state: np.argmax(state.arms, -1)),
    Copy: Cue("symbols", lambda state: state.symbols),
    DelayedMatch: Cue("sample", lambda state: state.sample),
    EvidenceAccumulation: Cue("side", lambda state: state.side),
    GaussianBandit: Cue("best arm", lambda state: np.argmax(state.arms, -1)),
    KeyToDoor: Cue("colour of the key", lambda state: state.colour),
    MemoryChain: Cue("bits", lambda state: state.context),
    MultiarmedBandit: Cue("best arm", lambda state: np.argmax(state.odds, -1)),
    Parity: Cue("parity so far", lambda state: state.parity),
    Passkey: Cue("digits", lambda state: state.digits),
    RepeatFirst: Cue("first card", lambda state: state.first),
    RepeatPrevious: Cue("card to repeat", lambda state: state.recent[..., 0]),
    SetDisjointness: Cue("common element or none", lambda state: state.common >= 0),
    TMaze: Cue("goal", lambda state: state.goal),
    TMazeActive: Cue("goal", lambda state: state.goal),
}


def cue_of(task: Environment) -> Cue | None:
    """The cue of a task, without its wrappers; None where none is named."""
    return _CUES.get(type(task))
