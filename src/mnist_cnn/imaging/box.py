"""Rectangles in a picture."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle in whole pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bottom - self.top

    def scaled(self, factor: float) -> "Box":
        """Return the same box in a picture `factor` times as large."""
        sides = (self.left, self.top, self.right, self.bottom)
        return Box(*(round(factor * side) for side in sides))
