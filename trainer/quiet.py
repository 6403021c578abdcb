"""Silencing what other libraries print, in processes that are loraplan's own: the command line and the workers of a study.

A Python program that calls loraplan keeps its own settings: nothing else in the library changes another library's verbosity.
"""

import logging
import os
from functools import partial


def quiet_libraries() -> None:
    """Let only our own progress bars and messages through, for the rest of the process."""
    import datasets
    import transformers
    import transformers.modeling_gguf_pytorch_utils as gguf

    # Its bar asks nobody whether bars are wanted.
    gguf.tqdm = partial(gguf.tqdm, disable=True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    quiet_bitsandbytes()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns in every process that is forked later


def quiet_bitsandbytes() -> None:
    """Where it is installed, bitsandbytes announces optional kernels on import; loads nothing."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
