from . import otlp as otlp
from . import protobuf as protobuf
from . import requests as requests
from .records import Limits as Limits
from .requests import Requests as Requests
from .sink import Sink as Sink
