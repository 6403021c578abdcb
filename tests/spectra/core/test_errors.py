import pytest

import spectra
from spectra.core.errors import InputError, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\nb"), "a"),
        (OSError("  \n only this"), "only this"),
        (KeyError(), "KeyError"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_another_librarys_error_becomes_one_line(error, line):
    assert first_line(error) == line


def test_the_one_error_is_a_value_error_and_public():
    assert issubclass(InputError, ValueError)
    assert spectra.InputError is InputError
