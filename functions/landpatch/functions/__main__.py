"""``python -m landpatch.functions``: the command ``landpatch`` where its script is not on the path."""

from landpatch.functions.cli import main

main(prog_name="landpatch")
