from .service import Config as Config
from .service import Receiver as Receiver
from .service import Tls as Tls
from .service import run as run
