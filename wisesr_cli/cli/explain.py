"""`wisesr explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.command()
def explain(
    run: Annotated[str, typer.Argument(help="A run directory, or its best.keras.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Images, folders (recursive), globs, or - for paths on standard input.")
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Explain this class instead of the predicted one; repeatable."),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Show the head's learned position weights instead; takes no image.")
    ] = False,
    output_dir: Annotated[
        str | None, typer.Option("-o", "--output-dir", metavar="DIR", help="Folder for pictures; default: RUN/explain.")
    ] = None,
    from_file: Annotated[str | None, typer.Option("--from-file", metavar="LIST", help="A file with paths.")] = None,
    null: Annotated[bool, typer.Option("--null", help="Paths that are read end in NUL.")] = False,
    pictures: Annotated[
        int, typer.Option("--pictures", metavar="N", min=0, help="Images that get a picture of their own, at most.")
    ] = 1000,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per step.")] = 32,
    output: options.TableFormat = "table",
    show: options.Show = False,
    pixel_limit: options.PixelLimit = None,
    device: options.DeviceChoice = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Show which positions of the feature map made a logit, exactly: pictures, contact sheets, arrays, JSON and CSV.

    Orange speaks for the class, blue against it; sum and bias add up to the logit. Examples:

    wisesr explain runs/photos-wise photo.jpg --class dress

    wisesr explain runs/photos-wise --weights
    """
    from wisesr_cli.errors import UsageError

    if weights and (inputs or from_file is not None):
        raise UsageError("--weights shows the head, which is the same for all images: leave the images out")
    if not weights and not inputs and from_file is None:
        raise UsageError("nothing to explain: give images, folders, globs, -, --from-file LIST, or --weights")
    from wisesr_cli.display.terminal import LONG_TABLE, TerminalListener
    from wisesr_cli.explanation.explain import Request, Wanted, explain_images, explain_weights, labels_of
    from wisesr_cli.explanation.place import explanation_folder
    from wisesr_cli.explanation.screen import Screen
    from wisesr_cli.images.decoding import PIXEL_LIMIT
    from wisesr_cli.model_files.info_file import read_model_info
    from wisesr_cli.run.run import model_path

    listener = TerminalListener(quiet=quiet, verbose=verbose)
    model = model_path(run)
    labels = labels_of(classes or (), read_model_info(model).class_names)
    with explanation_folder(model, output_dir, "-o") as folder:
        wanted = Wanted(output, None if verbose else LONG_TABLE, pictures, Screen(listener) if show else None)
        if weights:
            explain_weights(labels, model, folder, wanted=wanted, device=device, listener=listener)
            return
        request = Request(
            inputs=tuple(inputs or ()),
            from_file=from_file,
            null_separated=null,
            batch_size=batch_size,
            pixel_limit=pixel_limit or PIXEL_LIMIT,
            device=device,
        )
        tally = explain_images(request, labels, model, folder, wanted=wanted, listener=listener)
    if tally.unreadable:
        listener.warn(tally.complaint)
    raise typer.Exit(tally.exit_code(strict=False))
