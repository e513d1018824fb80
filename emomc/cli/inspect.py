"""`emomc inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from emomc.cli.runs import FOLDER


@click.command(short_help="What a compressed file holds, byte for byte.")
@click.argument("file", type=FOLDER)
@click.option("--codecs", is_flag=True, help="Also what every codec would take for each layer.")
@click.option("--conventions", is_flag=True, help="Also the size as papers count it.")
def inspect(file: Path, codecs: bool, conventions: bool) -> None:
    """List the layers of FILE and what every byte of it is spent on. The network itself is not needed.

    \b
    shape        of the weight, output channels first
    codec        how the integers are stored, the smallest of all codecs
    bits         of a stored value, before entropy coding
    zeros        pruned weights
    values       distinct weights that are not zero; few of them are shared weights
    bits/weight  of the file, with scales and everything else that the layer takes
    entropy      order-0 entropy of the integers, bits a weight: what an ideal coder would take that knows
                 the histogram and codes each weight by itself
    codes        bytes of the integers, with their code tables
    scales       bytes of the scales, one for the layer or for each output channel
    head         bytes of shape, bit-width and length
    bytes        of the file; the sum of the column is the file's length, exactly

    \b
    Examples:
      emomc export runs/digits p03 --out small.emomc
      emomc inspect small.emomc
      emomc inspect small.emomc --codecs --conventions

    \b
    In Python:
      file = emomc.read_network("small.emomc")
      file.header, file.arrays["stem.1.weight"], file.tensor("stem.0").dequantize()
    """  # noqa: D301 - click's mark
    from emomc.cli.output import console
    from emomc.coding import file_contents, read_network
    from emomc.report.contents import codecs_table, contents_facts, contents_table, conventions_table

    opened = read_network(file)
    contents = file_contents(opened)
    out = console()
    for key, value in opened.header.items():
        out.print(f"{key}: {value}")
    out.print(contents_table(contents))
    if codecs:
        out.print(codecs_table(contents))
    if conventions:
        out.print(conventions_table(contents))
    for fact in contents_facts(contents):
        out.print(fact)
