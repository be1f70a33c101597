"""Chapter 6: fewer tokens inside a trained model."""

from minitok.reduce._common import Blended, Kept, Merged, Reduction, cost, even, highest, offered, once, resume, spread
from minitok.reduce.adatoken_3d import adatoken_3d
from minitok.reduce.aim import aim
from minitok.reduce.centerclip import centerclip
from minitok.reduce.corematching import corematching
from minitok.reduce.covipal import covipal
from minitok.reduce.divprune import divprune
from minitok.reduce.expedit import expedit, reconstruction
from minitok.reduce.explain_compress import explain_compress
from minitok.reduce.fastv import fastv
from minitok.reduce.fopru import fopru
from minitok.reduce.globalcom2 import globalcom2
from minitok.reduce.hiprune import hiprune
from minitok.reduce.hired import hired
from minitok.reduce.hot import Hourglass, hot
from minitok.reduce.pitome import falling, pitome
from minitok.reduce.random_drop import random_drop
from minitok.reduce.recoverable import recoverable
from minitok.reduce.stvit import SemanticTokens, STViT
from minitok.reduce.todre import todre
from minitok.reduce.token_correlation import token_correlation
from minitok.reduce.token_transforming import token_transforming
from minitok.reduce.tome import tome
from minitok.reduce.top_vim import VisionScan, top_vim
from minitok.reduce.vflowopt import vflowopt

__all__ = ["Blended", "Hourglass", "Kept", "Merged", "Reduction", "STViT", "SemanticTokens", "VisionScan"]
__all__ += ["cost", "even", "falling", "highest", "offered", "once", "reconstruction", "resume", "spread"]
__all__ += [
    "adatoken_3d",
    "aim",
    "centerclip",
    "corematching",
    "covipal",
    "divprune",
    "expedit",
    "explain_compress",
    "fastv",
    "fopru",
    "globalcom2",
    "hiprune",
    "hired",
    "hot",
    "pitome",
    "random_drop",
    "recoverable",
    "todre",
    "token_correlation",
    "token_transforming",
    "tome",
    "top_vim",
    "vflowopt",
]
