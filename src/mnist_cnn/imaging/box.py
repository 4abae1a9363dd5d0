"""A rectangle in a picture."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels: from `left` and `top` to before `right` and `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    def scaled(self, factor: float) -> "Box":
        """In a picture `factor` times as large."""
        sides = (self.left, self.top, self.right, self.bottom)
        return Box(*(round(factor * side) for side in sides))
