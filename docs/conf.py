"""Sphinx's settings: `make docs` builds these pages, and fails on any warning."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # for fields.py, and for the packages

project = "loraplan"
author = "the loraplan developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "fields"]
html_theme = "furo"
html_title = "loraplan"
myst_enable_extensions = ["attrs_block", "deflist"]  # definition lists, for the glossary
myst_heading_anchors = 3  # so that a link may point to a section
pygments_dark_style = "monokai"

autodoc_default_options = {"members": True, "undoc-members": True, "exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "code"  # docstrings write code between single backticks
