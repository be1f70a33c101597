"""Chapter 4: the order in which a picture is written, and the heads that write it."""

from minitok.generate._common import Drawn, Schedule, generate
from minitok.generate.nar import NAR, diagonals
from minitok.generate.raster import ImageGPT, raster

__all__ = ["NAR", "Drawn", "ImageGPT", "Schedule", "diagonals", "generate", "raster"]
