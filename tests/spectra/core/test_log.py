import logging

from spectra.core.log import LOG


def test_the_librarys_voice_has_its_name_and_no_ears_of_its_own():
    assert LOG is logging.getLogger("loraplan")
    assert LOG.handlers == []
    assert LOG.level == logging.NOTSET
