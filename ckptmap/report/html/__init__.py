"""Reports as one self-contained page: plain data from here, shown by the scripts in `assets/`.

One file a subject makes the data (`diff`, `heads`, `remap`), `matching` lays out what is common to those with two
sides, `page` puts data, styles and scripts into a file. Nothing of a checkpoint is ever HTML: it travels as JSON, and
the scripts insert it as text. `notebook` is the short form, without scripts.
"""
