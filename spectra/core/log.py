"""The library's voice: what happens is logged under `loraplan`, and whoever runs the library decides where that goes."""

import logging

LOG = logging.getLogger("loraplan")
