"""Settings of the documentation. Builds without network: links to other projects go through small local inventories."""

import sys
from pathlib import Path

import sphinx_gallery.sorting

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import api_index
import api_pages
import bibliography
import cell_pictures
import docstrings
import error_messages
import index_entries
import inventories
import measured
import task_pages

import manifold_rnn

project = "manifold-rnn"
author = copyright = "the manifold-rnn developers"
version = release = manifold_rnn.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "sg_execution_times.rst", "gallery/sg_execution_times.rst"]
templates_path = ["_templates"]
nitpicky = True
suppress_warnings = ["config.cache"]  # the gallery's settings hold objects that do not pickle

html_theme = "furo"
html_title = "manifold-rnn"
pygments_dark_style = "github-dark"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["code.css"]
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autosummary_generate = api_pages.write(HERE / "api" / "generated")
api_index.write(HERE / "api" / "generated" / "index.txt")
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_use_param = False  # "Tensor, shape (..., n, n)" is prose, not names to look up
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
bibtex_default_style = bibliography.register()

intersphinx_mapping = inventories.write(HERE / "_build" / "inventories")
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(inventories.FOREIGN)})(\..*)?"),
    ("py:.*", r"manifold_rnn\..*\._\w+"),  # type variables and the like
    ("py:obj", r"typing\.Literal\[.*"),  # autodoc cuts the values of an alias at their commas
]

# without a name: an example finds only what it imports, as its reader does
doctest_global_setup = """
__import__("torch").manual_seed(0)
__import__("torch").set_num_threads(1)
"""

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": sphinx_gallery.sorting.FileNameSortKey,
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "backreferences_dir": None,
    "reset_modules_order": "both",
}

RESULTS = HERE.parent / "benchmarks" / "results"
cell_pictures.write(HERE / "networks" / "cells.toml", HERE / "_build" / "cells")
measured.write_tables(RESULTS, HERE / "networks", HERE / "_build" / "measured")
measured.write_runs(RESULTS, HERE / "_build" / "measured")
measured.write_promises(RESULTS, HERE / "_build" / "measured")
task_pages.write(HERE / "_build" / "tasks")
rst_epilog = measured.substitutions(RESULTS / "retractions.json")


def setup(app):
    error_messages.setup(app)
    app.add_transform(index_entries.Sections)
    app.connect("env-get-outdated", index_entries.outdated)
    app.connect("html-page-context", add_search)
    app.connect("env-check-consistency", api_pages.check)
    app.connect("missing-reference", api_pages.resolve)
    app.connect("autodoc-process-signature", readable)
    app.connect("autodoc-process-docstring", docstrings.insert, priority=400)  # before napoleon


def readable(app, what, name, obj, options, signature, returns):
    """Write a default that a factory makes so that Sphinx can read the signature."""
    return (signature and signature.replace("<factory>", "..."), returns)


def add_search(app, page, template, context, tree):
    """Add to the page of the search what sorts and shows its results."""
    if page == "search":
        app.add_js_file("search.js", loading_method="defer")
