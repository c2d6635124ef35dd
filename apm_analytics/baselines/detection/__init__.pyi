from . import episodes as episodes
from . import today as today
from . import why_card as why_card
from .detector import SeriesDetector as SeriesDetector
