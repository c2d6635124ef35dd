from . import business as business
from . import shop as shop
