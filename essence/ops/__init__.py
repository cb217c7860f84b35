"""Operations of the networks. One implementation today: plain torch, on every device."""

from .reference import leaky_relu, upfirdn2d

BACKEND = "reference (torch)"

__all__ = ["BACKEND", "leaky_relu", "upfirdn2d"]
