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

    @property
    def middle(self) -> tuple[float, float]:
        """Column and row of the middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def scaled(self, factor: float) -> "Box":
        """Return the same box in a picture `factor` times as large."""
        sides = (self.left, self.top, self.right, self.bottom)
        return Box(*(round(factor * side) for side in sides))

    def moved(self, right: int, down: int) -> "Box":
        """Return the same box `right` and `down` pixels further."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)
