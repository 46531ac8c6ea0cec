"""Scans and recurrences: pure functions over `[T, B, ...]`, each with its reference, resets inside."""

from memrl.kernels.dplr_delta_rule import dplr_delta_rule
from memrl.kernels.gated_delta_rule import gated_delta_rule
from memrl.kernels.gated_linear_attention import gated_linear_attention
from memrl.kernels.gru import gru_scan
from memrl.kernels.linear_scan import linear_scan
from memrl.kernels.lstm import lstm_scan
from memrl.kernels.newton import NewtonOptions
from memrl.kernels.selective_scan import selective_scan
from memrl.kernels.signed_linear_attention import signed_linear_attention

__all__ = [
    "NewtonOptions",
    "dplr_delta_rule",
    "gated_delta_rule",
    "gated_linear_attention",
    "gru_scan",
    "linear_scan",
    "lstm_scan",
    "selective_scan",
    "signed_linear_attention",
]
