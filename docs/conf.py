"""How Sphinx sets the site that ``docs/make_site.py`` puts together; every page opens from disk and asks no network."""

import re

project = "nngpt-lab"
copyright = "the nngpt-lab contributors, MIT licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = "nngpt-lab"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

nb_execution_mode = "off"  # what was executed is shown; a build runs nothing
nb_ipywidgets_js = {}  # no output is a widget, and the scripts for them lie on the network
myst_enable_extensions = []  # a dollar is a dollar: no formulas, and no script for them
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource", "exclude-members": "__weakref__"}
autodoc_typehints = "signature"
suppress_warnings = ["ref.python"]  # two classes of one name, in a type that a docstring names
napoleon_numpy_docstring = False


def list_of_terms(app, what, name, obj, options, lines):
    """Lines ``term``, two blanks, text: a line each, as they are meant, unless they are a table's."""
    if not any(line.startswith("====") for line in lines):
        lines[:] = [re.sub(r"^(\s*)(?=``[^`]+``  +\S)", r"\1| ", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", list_of_terms)
