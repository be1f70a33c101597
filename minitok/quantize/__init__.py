"""Chapter 1: from continuous vectors to codes and back."""

from minitok.quantize._common import Quantized
from minitok.quantize.fsq import FSQ
from minitok.quantize.lfq import LFQ
from minitok.quantize.rvq import RVQ
from minitok.quantize.tokenbridge import TokenBridge
from minitok.quantize.vq import VQ, nearest
from minitok.quantize.wetok import WeTok

__all__ = ["FSQ", "LFQ", "RVQ", "VQ", "Quantized", "TokenBridge", "WeTok", "nearest"]
