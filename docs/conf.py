"""How Sphinx builds these pages: ``make docs``, with warnings as errors and without any network."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(Path(__file__).parent / "_extensions"), str(Path(__file__).parents[1])]

import innv_ext

project = "innv_ext"
author = "the innv_ext authors"
version = release = innv_ext.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings", "mathml", "analyzer_table"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

# Docstrings describe arguments in words, not in types that could be looked up: nitpicky would report all of them.
nitpicky = False
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Result"]

exclude_patterns = ["hub_table.md"]  # part of hub.md

html_theme = "furo"
html_title = f"innv_ext {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_copy_source = False
