"""Tables and figures as plain text, beside the figures; `minitok.tables` has them for who needs no torch."""

from minitok.tables import aligned, shown, wrapped

__all__ = ["aligned", "shown", "wrapped"]
