"""Start the command line: `python -m paravirt`."""

from __future__ import annotations

import sys

EXTRA = {"click", "rich", "plotext"}


def main() -> int:
    """Run the command line and return its exit code; without its libraries, say how to get them."""
    try:
        from paravirt.cli import run
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRA:
            raise
        print(f"paravirt: {missing.name} is missing; pip install 'paravirt[cli]'", file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
