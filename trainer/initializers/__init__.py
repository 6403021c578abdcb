"""The table of initialisations: how the experts of a new mixture start. A new one is one file and one line here.

An initialisation fills a layer's A and B in place. Where it leaves B other than zero, the layer would no longer compute what its
base does; what the experts add is then subtracted from the base (trainer/layers/offset.py). Its row says so, because a base whose
weight cannot be changed has to be refused before anything is built.
The folder loads no torch before a layer is there, so that the command line can offer what is in the table.
"""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.initializers.kaiming import kaiming
from trainer.initializers.layer import NewLayer
from trainer.initializers.svd import svd


@dataclass(frozen=True, slots=True)
class Initializer:
    """A row of the table: the function, and whether it leaves B other than zero."""

    run: Callable[[NewLayer], None]
    changes_base: bool = False


INITIALIZERS: dict[str, Initializer] = {
    "kaiming": Initializer(kaiming),
    "svd": Initializer(svd, changes_base=True),
}
