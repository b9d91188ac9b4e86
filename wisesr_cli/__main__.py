"""The program: runs a command line and exits with its code."""

import sys


def main() -> None:
    """Run `wisesr` with the arguments of this process and exit."""
    _open_closed_streams()
    if not _exclude_current_folder():
        sys.stderr.write("wisesr: the current folder no longer exists; change to another one\n")
        sys.exit(5)
    if sys.platform.startswith("win"):
        from wisesr_cli.errors import ON_WINDOWS

        sys.stderr.write(f"wisesr: {ON_WINDOWS}\n")
        sys.exit(5)
    import os

    # Otherwise NumPy's matrix library, which is unused here, starts a thread per CPU, which takes as long as the rest
    # of NumPy's import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from wisesr_cli.cli.main import run, show_bug

    sys.excepthook = show_bug
    code = run(sys.argv[1:])
    if code in (130, 143):
        # Threads still running after an interrupted training complain on standard error that Python has ended.
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Open /dev/null in place of closed standard streams, so that no file of ours gets one of their numbers.

    A closed standard input stays closed to Python, so that reading paths from it is reported as an error. So is writing
    to a closed standard output, which is opened for reading only.
    """
    import os

    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # This takes the lowest free number: the closed stream's.
            os.open(os.devnull, os.O_RDWR if number == 2 else os.O_RDONLY)
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  (for as long as the process runs)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _exclude_current_folder() -> bool:
    """Never import from the current folder: a `json.py` or `keras_cv.py` next to images is not our code.

    Returns False if the current folder no longer exists. One that contains Python or this package stays, but comes
    last.
    """
    import os

    try:
        here = os.path.realpath(os.curdir)
    except FileNotFoundError:
        return False
    own = os.path.realpath(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120  (pathlib is not loaded yet)
    libraries = [f"{os.path.realpath(folder)}/lib/python" for folder in (sys.prefix, sys.base_prefix)]
    installed = here == own or here.startswith(tuple(libraries))
    others = [path for path in sys.path if os.path.realpath(path) != here]
    sys.path[:] = [*others, here] if installed and len(others) < len(sys.path) else others
    return True


if __name__ == "__main__":
    main()
