"""Settings of the documentation site; scripts/build_site.py lays the pages beside this file."""

project = "NanoTorch"
copyright = "NanoTorch contributors"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = "NanoTorch"
html_static_path = ["_static"]
html_css_files = ["site.css"]
myst_enable_extensions = ["html_image", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
