"""Chapter 7, projectors: how a picture reaches a language model, and in how few tokens.

A projector is an `nn.Module`, `(x: b n c, k) -> b k d`: features of an encoder's patches become k tokens for the
language model. `from minitok.project import LLaVA`.
"""

from minitok.project.bus import BUS
from minitok.project.crosslmm import CrossLMM
from minitok.project.langdc import LangDC
from minitok.project.llava import LLaVA
from minitok.project.llava_mini import LLaVAMini
from minitok.project.m3 import M3
from minitok.project.mqt import MQT
from minitok.project.pvc import PVC
from minitok.project.slime import SliME
from minitok.project.tokenflex import TokenFLEX
from minitok.project.tokenpacker import TokenPacker
from minitok.project.vision_remember import VisionRemember
from minitok.project.visionthink import VisionThink

__all__ = [
    "BUS",
    "M3",
    "MQT",
    "PVC",
    "CrossLMM",
    "LLaVA",
    "LLaVAMini",
    "LangDC",
    "SliME",
    "TokenFLEX",
    "TokenPacker",
    "VisionRemember",
    "VisionThink",
]
