from . import loops as loops
from .chunks import VARIED as VARIED
from .files import FileWriter as FileWriter
