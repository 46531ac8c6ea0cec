"""Scans and recurrences: pure functions over `[T, B, ...]`, each with its reference, resets inside."""

from memrl.kernels.gru import gru_scan
from memrl.kernels.linear_scan import linear_scan
from memrl.kernels.lstm import lstm_scan

__all__ = ["gru_scan", "linear_scan", "lstm_scan"]
