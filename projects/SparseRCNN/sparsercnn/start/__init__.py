"""From a folder of annotated images to a run: see docs/own_data.md.

``formats`` reads the annotations, ``split`` divides them with near-duplicates (``duplicates``) on
one side, ``figures`` counts, ``choices`` derives the config from the counts, ``writing`` writes it,
and ``project`` does all of this in order.
"""
