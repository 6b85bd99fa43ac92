#!/usr/bin/env python3
import sys

from sparsercnn.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
