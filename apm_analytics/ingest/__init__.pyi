from . import exporter as exporter
from . import receiver as receiver
from .decode import Limits as Limits
from .decode import otlp as otlp
from .files import import_files as import_files
from .files import simulated as simulated
