from . import dead_letters as dead_letters
from . import simulated as simulated
from .importer import import_files as import_files
from .summary import ImportSummary as ImportSummary
