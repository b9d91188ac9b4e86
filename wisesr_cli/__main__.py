"""The program: runs a command line and turns what went wrong into one line and an exit code."""

import sys


def main() -> None:
    """Run `wisesr` with the arguments of this process and exit."""
    _forget_current_folder()
    from wisesr_cli.cli import run

    sys.exit(run(sys.argv[1:]))


def _forget_current_folder() -> None:
    """Never import from the current folder: a `json.py` or `keras_cv.py` that lies beside images is no code of ours."""
    import os

    here = {"", ".", os.getcwd()}  # noqa: PTH109  (pathlib would be imported from there)
    sys.path[:] = [path for path in sys.path if path not in here]


if __name__ == "__main__":
    main()
