"""torch.nn.functional.interpolate(antialias=True) repeats the first row where the result is one pixel wide.

An image (1, 1, 4, 4), whose upper half is 0 and lower half is 1, is resized to (2, 1). The result is known in closed form.
Each row of the result stands for two rows of the image. The weights of the four rows in the first row of the result are 3/7,
3/7, 1/7 and 0 (bilinear), or 111/242, 111/242, 29/242 and -9/242 (bicubic, a = -0.5). So the first row of the result is 1/7
or 10/121, and the second is 1 less that. torch gives the first value in both rows. The same image on its side, resized to
(1, 2), comes out right.
"""

import sys

import torch
import torch.nn.functional as F

LIBRARY = "torch"
DOES = "resizes to a width of one pixel with antialias"
EXPECTED = {"bilinear": (1 / 7, 6 / 7), "bicubic": (10 / 121, 111 / 121)}
TOLERANCE = 1e-4


def measure(device: str = "cpu") -> tuple[list[float], list[float]]:
    """The two rows of the result, first bilinear, then bicubic: as they should be, and as torch computes them."""
    rows = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 4, 1)
    image = rows.expand(1, 1, 4, 4).contiguous().to(device)
    expected: list[float] = []
    got: list[float] = []
    for mode, right in EXPECTED.items():
        expected += right
        got += F.interpolate(image, size=(2, 1), mode=mode, antialias=True).cpu().flatten().tolist()
    return expected, got


if __name__ == "__main__":
    expected, got = measure()
    print(f"{LIBRARY} {torch.__version__}")
    print("expected:", *(f"{x:.4f}" for x in expected))
    print("got:     ", *(f"{x:.4f}" for x in got))
    sys.exit(int(any(abs(e - g) > TOLERANCE for e, g in zip(expected, got))))
