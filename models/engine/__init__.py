"""Engines: train these blocks for one round, measure their errors, evaluate them. Two ways, one specification."""

from models.engine.contract import Blocks, Round
from models.engine.reference import ReferenceEngine

__all__ = ["Blocks", "ReferenceEngine", "Round", "choose_engine"]


def choose_engine(name: str, optimizer: str = "radam") -> ReferenceEngine:
    """The engine called `name`; "auto" takes the fastest that can run here."""
    return ReferenceEngine(optimizer)
