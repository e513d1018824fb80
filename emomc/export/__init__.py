"""Files of compressed networks as torch modules and weights, and measuring what is in them."""

from emomc.export.loading import KNOWN_FACTORIES, load
from emomc.export.measuring import measure_file
from emomc.export.plain import export_state_dict

__all__ = ["KNOWN_FACTORIES", "export_state_dict", "load", "measure_file"]
