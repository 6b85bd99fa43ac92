"""Programs: each module has ``main(argv=None)``, which returns the exit status, and is a command of
``python -m sparsercnn`` and a script of the same purpose in a checkout."""
