"""Chapter 2: from pictures to few tokens and back."""

from minitok.image._common import Tokens, unpatch
from minitok.image.flextok import FlexTok
from minitok.image.one_d_piece import OneDPiece
from minitok.image.titok import TiTok

__all__ = ["FlexTok", "OneDPiece", "TiTok", "Tokens", "unpatch"]
