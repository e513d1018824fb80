"""The `emomc` command as ``python -m emomc``."""

from emomc.cli import main

main(prog_name="emomc")
