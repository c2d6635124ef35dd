from .requests import Redactor as Redactor
