"""From a folder of annotated images to a run: see docs/own_data.md.

``formats`` reads the annotations, ``split`` divides them with near-duplicates (``duplicates``) on
one side, ``figures`` counts, ``base`` reads the config to start from, ``choices`` derives from the
counts what is laid over it, ``writing`` writes it, and ``project`` does all of this in order.
"""
