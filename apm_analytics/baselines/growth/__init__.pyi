from . import capacity as capacity
from . import charts as charts
