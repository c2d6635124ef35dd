from . import otlp as otlp
from . import transcode as transcode
