from . import critical_path as critical_path
from . import waterfall as waterfall
