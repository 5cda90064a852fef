"""The table of loggers.

A logger is a file in this folder: a class with the decorator `@LOGGERS.register("name")`, and with remote=True where a
server may keep it waiting.
"""

from core.registry import Registry

LOGGERS = Registry("logger")
