"""Files of compressed networks: made at one configuration, as torch modules and plain weights, and measured."""

from emomc.export.checking import FileCheck, check_file
from emomc.export.compressing import IN_ORDER, CompressedFile, Compressor, compress
from emomc.export.configurations import configuration_names, load_configuration
from emomc.export.finetuning import Finetuned, finetune, finetune_recipe
from emomc.export.loading import KNOWN_FACTORIES, load
from emomc.export.measuring import measure_file
from emomc.export.onnxfile import export_onnx
from emomc.export.plain import export_state_dict
from emomc.export.shrinking import shrink_file

__all__ = [
    "IN_ORDER",
    "KNOWN_FACTORIES",
    "CompressedFile",
    "Compressor",
    "FileCheck",
    "Finetuned",
    "check_file",
    "compress",
    "configuration_names",
    "export_onnx",
    "export_state_dict",
    "finetune",
    "finetune_recipe",
    "load",
    "load_configuration",
    "measure_file",
    "shrink_file",
]
