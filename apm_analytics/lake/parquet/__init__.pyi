from . import loops as loops
from .chunks import varied as varied
from .files import FileWriter as FileWriter
