"""PyTorch, imported once. Whatever else needs it takes it from here."""

from warren_shared.errors import ConfigError

__all__ = ["torch"]

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ConfigError("PyTorch is not installed here: pip install 'warren-fl[torch]'") from None
