"""What a file's columns make of its rows. `FORMATS` is the table; a new format is one function and one line of it."""

from trainer.data.formats.fields import Fields, Row
from trainer.data.formats.table import FORMATS, Format, Layout, formats_help, layout_of

__all__ = ["FORMATS", "Fields", "Format", "Layout", "Row", "formats_help", "layout_of"]
