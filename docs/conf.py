"""Sphinx's settings: `make docs` builds these pages, and fails on any warning."""

project = "loraplan"
author = "the loraplan developers"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "loraplan"
myst_heading_anchors = 3  # so that a link may point to a section
pygments_dark_style = "monokai"
