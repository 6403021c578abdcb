"""The table of initialisations: how the experts of a new mixture start. A new one is one file and one line here.

An initialisation fills a layer's A and B in place. Where it leaves B other than zero, the layer would no longer compute what its
base does; what the experts add is then subtracted from the base (trainer/layers/offset.py), whichever initialisation it was.
The folder loads no torch before a layer is there, so that the command line can offer what is in the table.
"""

from collections.abc import Callable

from trainer.initializers.kaiming import kaiming
from trainer.initializers.layer import NewLayer
from trainer.initializers.svd import svd

Initializer = Callable[[NewLayer], None]

INITIALIZERS: dict[str, Initializer] = {
    "kaiming": kaiming,
    "svd": svd,
}
