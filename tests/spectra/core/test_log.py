import logging

from spectra.core.log import LOG
from spectra.core.terminal import EchoHandler


def test_the_librarys_voice_has_its_name_and_no_ears_of_its_own():
    assert LOG is logging.getLogger("loraplan")
    assert all(isinstance(handler, EchoHandler) for handler in LOG.handlers)  # which is the command line's
