"""One network compressed to shares of the targets, from a trained checkpoint to a table.

Every layer is pruned along one path with compensation of its output error, on training images; the ratios are those
that together lose least while all four dataflows of the published energy model, and the published size conventions,
save a given share of the targets: a level. What remains is rounded with compensation. With ``--minutes`` the pruned
network is also trained, with fixed zeros and rounded weights, taught by the dense network, each level going on from the
one before. Every level is written to a file, decoded and measured on validation images.
"""
