"""Chapter 5: several tokens from one call of a large model."""

from minitok.speculate._common import Accept, Cached, Decoded, decode, drafter, happens, pick, probabilities
from minitok.speculate._tree import Drafter, Tree, TreeCached, decode_tree, walk
from minitok.speculate.gsd import Jacobi
from minitok.speculate.token_recycling import TokenRecycling

__all__ = ["Accept", "Cached", "Decoded", "Drafter", "Jacobi", "TokenRecycling", "Tree", "TreeCached"]
__all__ += ["decode", "decode_tree", "drafter", "happens", "pick", "probabilities", "walk"]
