"""The program: runs a command line and turns what went wrong into one line and an exit code."""

import sys


def main() -> None:
    """Run `wisesr` with the arguments of this process and exit."""
    _open_closed_streams()
    if not _forget_current_folder():
        sys.stderr.write("wisesr: the current folder no longer exists; change to another one\n")
        sys.exit(5)
    _keep_matrix_library_small()
    from wisesr_cli.cli.main import run, show_bug

    sys.excepthook = show_bug
    code = run(sys.argv[1:])
    if code in (130, 143):
        _let_threads_end_silently()
    sys.exit(code)


def _open_closed_streams() -> None:
    """Let what is written to a closed standard stream go nowhere, and no file of ours get the number of one.

    Standard input that is closed stays so for Python, as reading paths from it is a mistake worth a message.
    """
    import os

    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (for as long as the process runs)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _let_threads_end_silently() -> None:
    """Send standard error nowhere: what still computes when a training is broken off complains that Python is gone."""
    import os

    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _keep_matrix_library_small() -> None:
    """Let NumPy's matrix library start no thread per processor when it is imported: nothing here multiplies with it.

    They take as long to start as all the rest of NumPy.
    """
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _forget_current_folder() -> bool:
    """Never import from the current folder: a `json.py` or `keras_cv.py` that lies beside images is no code of ours.

    Returns False when there is no current folder any more. A current folder that Python or this package is installed in
    stays, behind everything else.
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
