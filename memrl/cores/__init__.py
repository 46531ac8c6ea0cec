"""Memory cores: one file each, all behind the contract of `memrl.cores.base`, all registered here."""

from typing import Any, NamedTuple

from flax import nnx

from memrl.config import override
from memrl.cores.aaren import Aaren, AarenConfig
from memrl.cores.atlas import Atlas, AtlasConfig
from memrl.cores.base import CoreConfig, MemoryCore
from memrl.cores.deltanet import DeltaNet, DeltaNetConfig
from memrl.cores.deltaproduct import DeltaProduct, DeltaProductConfig
from memrl.cores.ffm import FFM, FFMConfig
from memrl.cores.gated_deltanet import GatedDeltaNet, GatedDeltaNetConfig
from memrl.cores.gla import GLA, GLAConfig
from memrl.cores.gmu import GMU, GMUConfig
from memrl.cores.gru import GRU, GRUConfig
from memrl.cores.gtrxl import GTrXL, GTrXLConfig
from memrl.cores.hgrn2 import HGRN2, HGRN2Config
from memrl.cores.indrnn import IndRNN, IndRNNConfig
from memrl.cores.lmu import LMU, LMUConfig
from memrl.cores.lru import LRU, LRUConfig
from memrl.cores.lssl import LSSL, LSSLConfig
from memrl.cores.lstm import LSTM, LSTMConfig
from memrl.cores.mamba import Mamba, MambaConfig
from memrl.cores.mamba2 import Mamba2, Mamba2Config
from memrl.cores.memora import Memora, MemoraConfig
from memrl.cores.mgu import MGU, MGUConfig
from memrl.cores.mingru import MinGRU, MinGRUConfig
from memrl.cores.minlstm import MinLSTM, MinLSTMConfig
from memrl.cores.mlp import MLP, MLPConfig
from memrl.cores.mlstm import MLSTM, MLSTMConfig
from memrl.cores.moneta import Moneta, MonetaConfig
from memrl.cores.plstm import PLSTM, PLSTMConfig
from memrl.cores.retnet import RetNet, RetNetConfig
from memrl.cores.rwkv7 import RWKV7, RWKV7Config
from memrl.cores.s4 import S4, S4Config
from memrl.cores.s4d import S4D, S4DConfig
from memrl.cores.s5 import S5, S5Config
from memrl.cores.slstm import SLSTM, SLSTMConfig
from memrl.cores.titans import Titans, TitansConfig
from memrl.cores.titans_mac import TitansMAC, TitansMACConfig
from memrl.cores.titans_mag import TitansMAG, TitansMAGConfig
from memrl.cores.titans_mal import TitansMAL, TitansMALConfig
from memrl.cores.ttt_linear import TTTLinear, TTTLinearConfig
from memrl.cores.ttt_mlp import TTTMLP, TTTMLPConfig
from memrl.cores.window_attention import WindowAttention, WindowAttentionConfig
from memrl.cores.yaad import Yaad, YaadConfig
from memrl.errors import MemrlError, check
from memrl.registry import Registry


class CoreSpec(NamedTuple):
    """What the registry knows of a core."""

    core: type[MemoryCore]
    config: type[CoreConfig]


CORES: Registry[CoreSpec] = Registry("core")
CORES.register("aaren", CoreSpec(Aaren, AarenConfig))
CORES.register("atlas", CoreSpec(Atlas, AtlasConfig))
CORES.register("deltanet", CoreSpec(DeltaNet, DeltaNetConfig))
CORES.register("deltaproduct", CoreSpec(DeltaProduct, DeltaProductConfig))
CORES.register("ffm", CoreSpec(FFM, FFMConfig))
CORES.register("gated_deltanet", CoreSpec(GatedDeltaNet, GatedDeltaNetConfig))
CORES.register("gla", CoreSpec(GLA, GLAConfig))
CORES.register("gmu", CoreSpec(GMU, GMUConfig))
CORES.register("gru", CoreSpec(GRU, GRUConfig))
CORES.register("gtrxl", CoreSpec(GTrXL, GTrXLConfig))
CORES.register("hgrn2", CoreSpec(HGRN2, HGRN2Config))
CORES.register("indrnn", CoreSpec(IndRNN, IndRNNConfig))
CORES.register("lmu", CoreSpec(LMU, LMUConfig))
CORES.register("lru", CoreSpec(LRU, LRUConfig))
CORES.register("lssl", CoreSpec(LSSL, LSSLConfig))
CORES.register("lstm", CoreSpec(LSTM, LSTMConfig))
CORES.register("mamba", CoreSpec(Mamba, MambaConfig))
CORES.register("mamba2", CoreSpec(Mamba2, Mamba2Config))
CORES.register("memora", CoreSpec(Memora, MemoraConfig))
CORES.register("mgu", CoreSpec(MGU, MGUConfig))
CORES.register("mingru", CoreSpec(MinGRU, MinGRUConfig))
CORES.register("minlstm", CoreSpec(MinLSTM, MinLSTMConfig))
CORES.register("mlp", CoreSpec(MLP, MLPConfig))
CORES.register("mlstm", CoreSpec(MLSTM, MLSTMConfig))
CORES.register("moneta", CoreSpec(Moneta, MonetaConfig))
CORES.register("plstm", CoreSpec(PLSTM, PLSTMConfig))
CORES.register("retnet", CoreSpec(RetNet, RetNetConfig))
CORES.register("rwkv7", CoreSpec(RWKV7, RWKV7Config))
CORES.register("s4", CoreSpec(S4, S4Config))
CORES.register("s4d", CoreSpec(S4D, S4DConfig))
CORES.register("s5", CoreSpec(S5, S5Config))
CORES.register("slstm", CoreSpec(SLSTM, SLSTMConfig))
CORES.register("titans", CoreSpec(Titans, TitansConfig))
CORES.register("titans_mac", CoreSpec(TitansMAC, TitansMACConfig))
CORES.register("titans_mag", CoreSpec(TitansMAG, TitansMAGConfig))
CORES.register("titans_mal", CoreSpec(TitansMAL, TitansMALConfig))
CORES.register("ttt_linear", CoreSpec(TTTLinear, TTTLinearConfig))
CORES.register("ttt_mlp", CoreSpec(TTTMLP, TTTMLPConfig))
CORES.register("window_attention", CoreSpec(WindowAttention, WindowAttentionConfig))
CORES.register("yaad", CoreSpec(Yaad, YaadConfig))


def list_cores() -> tuple[str, ...]:
    """The names of all registered cores, sorted."""
    return tuple(sorted(CORES))


def make_core(name: str, features: int, *, rngs: nnx.Rngs, **hyperparameters: Any) -> MemoryCore:
    """Makes the core called `name` that maps [T, B, features] to the same shape.

    Raises:
        MemrlError: for an unknown name or hyperparameter (with the nearest match and the known ones), or a value of the
            wrong type or out of range.
    """
    return build_core(core_config(name, **hyperparameters), features, rngs=rngs)


def core_config(name: str, **hyperparameters: Any) -> CoreConfig:
    """The configuration of the core called `name`, defaults except for `hyperparameters`."""
    return override(CORES[name].config(), f"core {name}", hyperparameters)


def build_core(config: CoreConfig, features: int, *, rngs: nnx.Rngs) -> MemoryCore:
    """Makes the core that `config` describes; see `make_core`."""
    name = core_name(config)
    check(features > 0, f"core {name}: features is {features}, expected more than 0")
    return CORES[name].core(features, config, rngs=rngs)  # type: ignore[call-arg]


def core_name(config: CoreConfig) -> str:
    """The registered name of the core that `config` belongs to."""
    for name, spec in CORES.items():
        if type(config) is spec.config:
            return name
    raise MemrlError(f"core is a {type(config).__name__}, expected the configuration of one of {list_cores()}")
