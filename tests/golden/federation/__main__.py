"""Write the files into a folder."""

import sys
from pathlib import Path

from tests.golden.federation.run import write

if __name__ == "__main__":
    write(Path(sys.argv[1]))
