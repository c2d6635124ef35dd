from . import publication as publication
from . import thresholds as thresholds
